"""The commands, a module each: flags, what is shown, exit codes."""
