"""What every package needs: checks of arguments, files, devices, progress, optional packages."""
