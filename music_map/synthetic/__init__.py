"""Generated logs in the schema of Yambda, with the structure and the traps of real ones."""
