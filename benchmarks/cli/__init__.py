"""The `recsim` command, one module per subcommand."""
