#!/bin/sh
# Runs once, when the database cluster is new: a role and a database for each service, so that none
# reads another's tables. psql takes the passwords from the environment, not from its arguments,
# which every process list shows.
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv airflow_password AIRFLOW_DB_PASSWORD
\getenv enclip_password ENCLIP_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE ROLE enclip LOGIN PASSWORD :'enclip_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';

CREATE DATABASE airflow OWNER airflow ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE enclip OWNER enclip ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE mlflow OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE mlflow_auth OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;

REVOKE CONNECT ON DATABASE airflow, enclip, mlflow, mlflow_auth FROM PUBLIC;
SQL
