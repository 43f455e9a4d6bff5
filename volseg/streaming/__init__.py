"""From file to file, block by block: volumes of any size, runs that can be stopped and resumed."""
