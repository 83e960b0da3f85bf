"""The SQL of every unit and of every query, a room for each subject. Nothing else in Aura speaks SQL, the schema apart.

What makes a unit returns a closure over plain values (see ``store``); what reads takes ``execute`` and gives records.
JSON columns are bytes as msgspec writes them; states are text as ``lifecycle`` names them.
"""
