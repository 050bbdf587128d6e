#!/bin/sh
# Write .env (or the file named) from .env.example, with a fresh random value for each empty setting.
# Never over an existing file: its passwords are those that the databases were made with.
set -eu

file=${1:-.env}
if [ -e "$file" ]; then
  echo "$file exists and holds the secrets in use; move it away first if you mean to make new ones." >&2
  exit 1
fi

# 32 random bytes in URL-safe base64: what Airflow's Fernet key has to be.
fernet_key() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; }
# 64 hexadecimal digits: safe inside a URL, and long enough for the HMAC of Airflow's tokens.
secret() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

umask 077
while IFS= read -r line; do
  case $line in
    '#'*) printf '%s\n' "$line" ;;
    AIRFLOW_FERNET_KEY=) printf '%s%s\n' "$line" "$(fernet_key)" ;;
    *=) printf '%s%s\n' "$line" "$(secret)" ;;
    *) printf '%s\n' "$line" ;;
  esac
done < "$(dirname "$0")/.env.example" > "$file"
echo "Wrote $file. Airflow's and MLflow's user is admin; see AIRFLOW_ADMIN_PASSWORD and MLFLOW_ADMIN_PASSWORD there."
echo "Search asks for ENCLIP_API_KEYS; programs that change products send one of ENCLIP_WRITE_KEYS."
