-- What the iterations of a loop made, row by row; a loop is a run of the kind "loop".
CREATE TABLE loop_rows (
    run        TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    iteration  INTEGER NOT NULL,           -- 0 is the start
    kind       TEXT NOT NULL,              -- prompt, sample, held-out, score, second-score, check, noise, pair, policy, decision, cost
    id         TEXT NOT NULL,              -- a sample's id also names its scores and checks
    value      TEXT NOT NULL CHECK (json_valid(value)),
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    PRIMARY KEY (run, iteration, kind, id)
);

-- Pairs with what made them: texts, rewards' difference, the policy that wrote them.
CREATE VIEW pairs AS
    SELECT p.run, p.iteration, p.id, q.value AS prompt,
           json_extract(c.value, '$.text') AS chosen, json_extract(r.value, '$.text') AS rejected,
           json_extract(p.value, '$.difference') AS difference, json_extract(c.value, '$.policy') AS policy
    FROM loop_rows p
    JOIN loop_rows c ON c.run = p.run AND c.kind = 'sample' AND c.id = json_extract(p.value, '$.chosen')
         AND c.iteration = coalesce(json_extract(p.value, '$.replayed_from'), p.iteration)
    JOIN loop_rows r ON r.run = p.run AND r.kind = 'sample' AND r.id = json_extract(p.value, '$.rejected')
         AND r.iteration = c.iteration
    JOIN loop_rows q ON q.run = p.run AND q.kind = 'prompt' AND q.id = json_extract(p.value, '$.prompt')
         AND q.iteration = c.iteration
    WHERE p.kind = 'pair';
