-- What a model was asked, so that every number and sentence of a review or a run can be traced to its prompt.
CREATE TABLE prompts (
    sha256     TEXT PRIMARY KEY,           -- of the rendered prompt, as in generations
    dialogue   TEXT NOT NULL CHECK (json_valid(dialogue)) -- {"messages": [...], "prefill": "..."}; a prompt without messages is its text
);

-- The generations behind a reviewer: same model, same prompt.
CREATE INDEX generations_prompt ON generations (prompt_sha256);
CREATE VIEW review_generations AS
    SELECT r.id AS review, json_extract(v.value, '$.index') AS reviewer, g.id AS generation
    FROM reviews r, json_each(r.review, '$.reviewers') v
    JOIN generations g ON g.model = r.model AND g.prompt_sha256 = json_extract(v.value, '$.prompt_sha256');

-- The generations behind a stage of a run.
CREATE VIEW run_generations AS
    SELECT s.run, s.name AS stage, g.id AS generation
    FROM stages s JOIN generations g ON g.prompt_sha256 = json_extract(s.value, '$.prompt_sha256');
