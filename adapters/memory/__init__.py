"""What lives in the process: the embedded default, and the near half of every cache."""
