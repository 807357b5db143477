"""The command line around the commands of launch/: help, completion, the terminal, configuration files, `music-map`."""
