"""The steps of a retraining, one file each.

A *run* is a folder of small JSON records in the blob store (`runs/<run_id>/<step>.json`). A step is a
function `step(platform, run_id, …)` that reads the records before it and writes its own, so the command
line, Airflow on one machine and workers elsewhere run the same code, and any step can be run again.
"""
