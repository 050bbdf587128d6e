"""Rankings + qrels → figures that say what they are.

queries    a catalog's own attributes → queries with their relevant products
qrels      a TREC qrels file → queries
metrics    rankings → per-query values → means, per category and per kind
kagl       the protocol of public fashion leaderboards: tasks, figures, published lines
intervals  paired values of two releases → how sure a difference is
trec       rankings and qrels → files that other tools recompute every figure from
report     evaluations → Markdown
plots      evaluations, embeddings → pictures
"""
