#!/bin/sh
# Airflow's simple auth manager reads passwords from a file, and makes one up for a user without an
# entry. Ours come by environment; the file lies in the container alone and is written at each start.
set -eu

umask 077
python - > "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE" <<'PYTHON'
import json
import os

print(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}))
PYTHON
unset AIRFLOW_ADMIN_PASSWORD

exec airflow api-server
