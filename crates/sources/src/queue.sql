CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,              -- page, match, source, …
    key TEXT NOT NULL,               -- what, once for each kind
    place INTEGER NOT NULL,          -- the requested order
    payload TEXT NOT NULL,           -- JSON
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed')),
    value TEXT,                      -- JSON, when done
    reason TEXT,                     -- when failed
    UNIQUE (kind, key)
) STRICT;
CREATE INDEX IF NOT EXISTS tasks_in_turn ON tasks (kind, state, place, key);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
