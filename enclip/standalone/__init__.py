"""One machine, one command: Airflow, MLflow and the search service as child processes.

`up` runs them until Ctrl-C; `demo` runs the main job through them. Every child lives under a guard
(`enclip.standalone.guard`), so that nothing outlives the command, however it ends.
"""
