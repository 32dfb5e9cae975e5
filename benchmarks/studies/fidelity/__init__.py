"""How far simulated users can be trusted."""
