-- The table that the benchmark reads and writes, and a role that may do no more than that.
--
--   createdb contacts
--   psql -v ON_ERROR_STOP=1 -v password="$DB_PASSWORD" -d contacts -f deploy/database.sql

CREATE TABLE contacts (
    id         serial PRIMARY KEY,
    name       varchar(255) NOT NULL,
    email      varchar(255),
    notes      text,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP
);

CREATE ROLE contacts_user LOGIN PASSWORD :'password';
GRANT SELECT, INSERT, UPDATE, DELETE ON contacts TO contacts_user;
GRANT USAGE, SELECT ON SEQUENCE contacts_id_seq TO contacts_user;
