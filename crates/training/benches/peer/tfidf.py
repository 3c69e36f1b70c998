"""The plainest peer of the score models: ridge regression on TF-IDF of words and word pairs.

    pip install scikit-learn scipy
    python crates/training/benches/peer/tfidf.py runs/judges/rows

The rows are those of `builtin judges` (crates/builtin/recipes/README.md). Prints Spearman's correlation on eval.jsonl.
"""

import json
import sys
from pathlib import Path

from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge


def load(name):
    rows = [json.loads(line) for line in (Path(sys.argv[1]) / name).open()]
    return [row["completion"] for row in rows], [row["score"] for row in rows]


texts, known = load("eval.jsonl")
for half in "ab":
    seen, scores = load(f"{half}.train.jsonl")
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
    model = Ridge(alpha=10).fit(words.fit_transform(seen), scores)
    predicted = model.predict(words.transform(texts))
    print(f"{half}: {len(texts)} papers, Spearman {spearmanr(predicted, known)[0]:.3f}")
