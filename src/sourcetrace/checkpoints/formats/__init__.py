"""What trainings wrote, a module a format: what lies in a file, read without executing it."""
