"""What every package uses: errors, the log, settings, files, steps and devices."""
