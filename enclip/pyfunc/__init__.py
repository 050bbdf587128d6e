"""The code that MLflow runs when it loads a version as a pyfunc ("models from code").

MLflow copies the one file that it needs into the model and executes it, so each file stands alone and
imports the rest of ENCLIP when it loads. An edge, like `cli` and `serving`.
"""
