#!/bin/sh
# One-shot before Airflow's services: its tables, and the pool in which one training runs at a time.
set -eu

airflow db migrate
# Whoever has changed the size in the UI (two GPUs, say) keeps it.
airflow pools get gpu >/dev/null 2>&1 || airflow pools set gpu 1 "Training: one at a time on this machine"
