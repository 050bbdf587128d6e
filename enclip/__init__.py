"""ENCLIP: a product search that retrains itself.

A plain library; Airflow, MLflow, FastAPI and the command line are its edges. Importing it reads no
environment, makes no folder and opens no connection.

Method: Naik and Agarwal, *ENCLIP: Ensembling and Clustering-Based Contrastive Language-Image
Pretraining for Fashion Multimodal Search with Limited Data and Low-Quality Images*, arXiv 2411.16096.
"""

__version__ = "0.1.0"
