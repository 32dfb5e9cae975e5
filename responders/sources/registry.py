"""The names of the readers and where to import each from."""

SOURCES: dict[str, str] = {
    "contentwise": "responders.sources.contentwise:read",
    "rl4rs": "responders.sources.rl4rs:read",
    "trec-session": "responders.sources.trec_session:read",
    "open-bandit": "responders.sources.open_bandit:read",
    "ebnerd": "responders.sources.ebnerd:read",
    "ebnerd-history": "responders.sources.ebnerd:read_history",
    "movielens": "responders.sources.movielens:read",
    "amazon": "responders.sources.amazon:read",
    "csv": "responders.sources.csv:read",
}
