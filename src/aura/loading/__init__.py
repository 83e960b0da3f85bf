"""From the text of plan files to checked, loaded plans: nothing here runs a step."""
