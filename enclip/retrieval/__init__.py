"""Embeddings → rankings, in plain NumPy, FAISS and scikit-learn: the same code offline and online.

fusion      member embeddings → one vector whose inner product is the ensemble's score
blocks      members' embeddings of pictures, and of names, side by side
projection  that vector → one not much wider than a member's
index       projected vectors → nearest rows
clusters    projected vectors → groups that look alike
filters     category, gender, colour, withdrawn → a mask of rows
ranking     scores → an order, with one rule for ties
searcher    all of the above as one object: query → ranking
text        BM25 over names, in the score or to compare with
files       what a searcher is on disk
checks      what is refused
"""
