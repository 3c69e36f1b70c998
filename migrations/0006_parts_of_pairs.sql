-- A pair may be about the beginnings of papers: neither text has an end.
DROP VIEW pairs;
CREATE VIEW pairs AS
    SELECT p.run, p.iteration, p.id, q.value AS prompt, json_extract(c.value, '$.text') AS chosen,
           CASE WHEN json_extract(p.value, '$.open') AND json_extract(r.value, '$.cut_at') IS NOT NULL
                THEN CAST(substr(CAST(json_extract(r.value, '$.text') AS BLOB), 1, json_extract(r.value, '$.cut_at')) AS TEXT)
                ELSE json_extract(r.value, '$.text') END AS rejected,
           coalesce(json_extract(p.value, '$.without_end'), 0) AS chosen_open,
           coalesce(json_extract(p.value, '$.open'), json_extract(p.value, '$.without_end'), 0) AS rejected_open,
           json_extract(p.value, '$.difference') AS difference, json_extract(c.value, '$.policy') AS policy
    FROM loop_rows p
    JOIN loop_rows c ON c.run = p.run AND c.kind = 'sample' AND c.id = json_extract(p.value, '$.chosen')
         AND c.iteration = coalesce(json_extract(p.value, '$.replayed_from'), p.iteration)
    JOIN loop_rows r ON r.run = p.run AND r.kind = 'sample' AND r.id = json_extract(p.value, '$.rejected')
         AND r.iteration = c.iteration
    JOIN loop_rows q ON q.run = p.run AND q.kind = 'prompt' AND q.id = json_extract(p.value, '$.prompt')
         AND q.iteration = c.iteration
    WHERE p.kind = 'pair';
