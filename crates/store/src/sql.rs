//! Every statement, in one place: a test holds each to the schema.

pub(crate) const PUT_PAPER: &str =
    "INSERT INTO papers (id, title) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING";
pub(crate) const PUT_VERSION: &str = "INSERT INTO versions (sha256, paper, path, source, pages, document) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sha256) DO UPDATE SET document = ?6, path = ?3, source = ?4, pages = ?5";
pub(crate) const PAPER_OF: &str = "SELECT paper FROM versions WHERE sha256 = ?1";
pub(crate) const PUT_MODEL: &str = "INSERT INTO models (id, reference) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE \
     SET reference = ?2";
pub(crate) const PUT_REVIEW: &str = "INSERT INTO reviews (id, version, form, mode, reviewers, model, seed, sampling, \
     status, reason, review) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO UPDATE SET \
     status = ?9, reason = ?10, review = ?11, created_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') \
     WHERE NOT (reviews.status = 'done' AND excluded.status = 'failed')";
pub(crate) const DROP_SCORES: &str = "DELETE FROM scores WHERE review = ?1";
pub(crate) const PUT_SCORE: &str = "INSERT INTO scores (review, reviewer, name, value, expected, distribution) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
pub(crate) const GET_REVIEW: &str = "SELECT r.id, v.paper, r.status, r.reason, r.review FROM reviews r \
     JOIN versions v ON v.sha256 = r.version WHERE r.id = ?1";
pub(crate) const LIST_PAPERS: &str = "SELECT p.id, p.title, (SELECT count(*) FROM versions v WHERE v.paper = p.id), \
     (SELECT count(*) FROM reviews r JOIN versions v ON v.sha256 = r.version WHERE v.paper = p.id), p.created_at \
     FROM papers p ORDER BY p.created_at, p.id";
pub(crate) const LIST_VERSIONS: &str = "SELECT sha256, path, source, pages, created_at FROM versions WHERE paper = ?1 \
     ORDER BY created_at, sha256";
pub(crate) const GET_DOCUMENT: &str =
    "SELECT document FROM versions WHERE paper = ?1 ORDER BY created_at DESC, sha256 DESC LIMIT 1";
pub(crate) const LIST_REVIEWS: &str = "SELECT r.id, v.paper, p.title, r.form, m.reference, r.seed, r.status, r.reason, \
     (SELECT avg(s.value) FROM scores s WHERE s.review = r.id AND s.name = 'rating'), r.created_at FROM reviews r \
     JOIN versions v ON v.sha256 = r.version JOIN papers p ON p.id = v.paper JOIN models m ON m.id = r.model \
     ORDER BY r.created_at, r.id";
pub(crate) const LIST_RUNS: &str = "SELECT x.id, x.kind, x.status, x.reason, \
     (SELECT count(*) FROM stages s WHERE s.run = x.id), x.created_at, x.finished_at FROM runs x \
     ORDER BY x.created_at, x.id";
pub(crate) const GET_RUN_CONFIG: &str = "SELECT config FROM runs WHERE id = ?1";
pub(crate) const PUT_RUN: &str = "INSERT INTO runs (id, kind, config, status) VALUES (?1, ?2, ?3, 'running') \
     ON CONFLICT (id) DO UPDATE SET status = 'running', reason = NULL, finished_at = NULL";
pub(crate) const END_RUN: &str = "UPDATE runs SET status = ?2, reason = ?3, \
     finished_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1";
pub(crate) const PUT_STAGE: &str = "INSERT INTO stages (run, position, name, value) VALUES \
     (?1, (SELECT count(*) FROM stages WHERE run = ?1), ?2, ?3) ON CONFLICT (run, name) DO UPDATE SET value = ?3";
pub(crate) const CLAIM_STAGE: &str = "INSERT INTO stages (run, position, name, value) VALUES \
     (?1, (SELECT count(*) FROM stages WHERE run = ?1), ?2, ?3) ON CONFLICT (run, name) DO NOTHING";
pub(crate) const LIST_STAGES: &str = "SELECT name, value FROM stages WHERE run = ?1 ORDER BY position";
pub(crate) const DROP_STAGES: &str = "DELETE FROM stages WHERE run = ?1";
pub(crate) const PUT_GENERATION: &str = "INSERT INTO generations (id, model, prompt_sha256, seed, sampling, output, \
     tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING";
pub(crate) const PUT_PROMPT: &str =
    "INSERT INTO prompts (sha256, dialogue) VALUES (?1, ?2) ON CONFLICT (sha256) DO NOTHING";
pub(crate) const PUT_LINEAGE: &str = "INSERT INTO lineage (child, parent, relation, run) VALUES (?1, ?2, ?3, ?4) \
     ON CONFLICT (child, parent, relation) DO UPDATE SET run = coalesce(?4, run)";
pub(crate) const LIST_PARENTS: &str = "SELECT l.parent, m.reference, l.relation, l.run FROM lineage l \
     JOIN models m ON m.id = l.parent WHERE l.child = ?1 ORDER BY l.created_at, l.parent, l.relation";
pub(crate) const PUT_LOOP_ROW: &str = "INSERT INTO loop_rows (run, iteration, kind, id, value) VALUES (?1, ?2, ?3, ?4, ?5) \
     ON CONFLICT (run, iteration, kind, id) DO NOTHING";
pub(crate) const LIST_LOOP_ROWS: &str = "SELECT id, value FROM loop_rows WHERE run = ?1 AND iteration = ?2 AND kind = ?3 \
     ORDER BY id";
pub(crate) const LIST_PAIRS: &str = "SELECT run, iteration, id, prompt, chosen, rejected, chosen_open, rejected_open, difference, policy FROM pairs \
     ORDER BY run, iteration, id";
pub(crate) const OTHERS: &str = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND \
     NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations')";
pub(crate) const FIND: &str = "SELECT id FROM papers WHERE id LIKE ?1 UNION SELECT id FROM reviews WHERE id LIKE ?1 \
     UNION SELECT id FROM runs WHERE id LIKE ?1 ORDER BY 1 LIMIT 10";
pub(crate) const COUNTS: &str =
    "SELECT (SELECT count(*) FROM papers), (SELECT count(*) FROM reviews), (SELECT count(*) FROM runs)";
pub(crate) const CHECK: &str = "PRAGMA quick_check";

#[cfg(test)]
pub(crate) const ALL: [&str; 31] = [
    PUT_LOOP_ROW,
    LIST_LOOP_ROWS,
    LIST_PAIRS,
    PAPER_OF,
    PUT_PAPER,
    PUT_VERSION,
    PUT_MODEL,
    PUT_REVIEW,
    DROP_SCORES,
    PUT_SCORE,
    GET_REVIEW,
    LIST_PAPERS,
    LIST_VERSIONS,
    GET_DOCUMENT,
    LIST_REVIEWS,
    LIST_RUNS,
    GET_RUN_CONFIG,
    PUT_RUN,
    END_RUN,
    PUT_STAGE,
    CLAIM_STAGE,
    LIST_STAGES,
    DROP_STAGES,
    PUT_GENERATION,
    PUT_PROMPT,
    PUT_LINEAGE,
    LIST_PARENTS,
    OTHERS,
    FIND,
    COUNTS,
    CHECK,
];
