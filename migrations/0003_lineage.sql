-- What a model was made from: every step from a base through trainings, merges and quantisations.
CREATE TABLE lineage (
    child      TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    parent     TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    relation   TEXT NOT NULL,              -- trained from, held to, merged from, quantized from
    run        TEXT REFERENCES runs (id) ON DELETE SET NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    PRIMARY KEY (child, parent, relation)
);
CREATE INDEX lineage_parent ON lineage (parent);
