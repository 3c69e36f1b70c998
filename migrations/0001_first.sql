-- Papers and what was read from them.
CREATE TABLE papers (
    id         TEXT PRIMARY KEY,           -- p + 12 hex digits
    title      TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE TABLE versions (
    sha256     TEXT PRIMARY KEY,           -- of the file
    paper      TEXT NOT NULL REFERENCES papers (id) ON DELETE CASCADE,
    path       TEXT NOT NULL,
    source     TEXT NOT NULL,
    pages      INTEGER,
    document   TEXT NOT NULL,              -- the Document as JSON
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE INDEX versions_paper ON versions (paper);

-- Models by the hash of their weights.
CREATE TABLE models (
    id         TEXT PRIMARY KEY,           -- sha256, or the reference of a server
    reference  TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- Reviews: one row per paper version, model, form, panel, seed and sampler; failures are rows too.
CREATE TABLE reviews (
    id         TEXT PRIMARY KEY,           -- r + 12 hex digits of the key's hash
    version    TEXT NOT NULL REFERENCES versions (sha256) ON DELETE CASCADE,
    form       TEXT NOT NULL,
    mode       TEXT NOT NULL,
    reviewers  INTEGER NOT NULL,
    model      TEXT NOT NULL REFERENCES models (id),
    seed       INTEGER NOT NULL,
    sampling   TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    reason     TEXT,                       -- of a failure
    review     TEXT,                       -- cycle.review/1
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE INDEX reviews_version ON reviews (version);
CREATE TABLE scores (
    review       TEXT NOT NULL REFERENCES reviews (id) ON DELETE CASCADE,
    reviewer     INTEGER NOT NULL,
    name         TEXT NOT NULL,
    value        REAL NOT NULL,
    expected     REAL,
    distribution TEXT,
    PRIMARY KEY (review, reviewer, name)
);

-- What a model wrote outside a review.
CREATE TABLE generations (
    id            TEXT PRIMARY KEY,        -- g + 12 hex digits
    model         TEXT NOT NULL REFERENCES models (id),
    prompt_sha256 TEXT NOT NULL,
    seed          INTEGER NOT NULL,
    sampling      TEXT NOT NULL,
    output        TEXT NOT NULL,
    tokens        INTEGER NOT NULL,
    created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- Long jobs and their stages, each stored before the next begins.
CREATE TABLE runs (
    id          TEXT PRIMARY KEY,          -- x + 12 hex digits of kind and configuration
    kind        TEXT NOT NULL,
    config      TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed', 'interrupted')),
    reason      TEXT,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    finished_at TEXT
);
CREATE TABLE stages (
    run        TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    position   INTEGER NOT NULL,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    PRIMARY KEY (run, name)
);
