"""What starts work by itself: items of schedules, and the times, events, files, calls and answers that trigger them."""
