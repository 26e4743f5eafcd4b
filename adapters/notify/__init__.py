"""Ways to tell people something outside of any request: mail, chat channels, the log."""
