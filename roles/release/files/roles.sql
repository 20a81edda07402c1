-- The roles of the database and their privileges. The superuser runs this before each release; a second run changes nothing.
-- The program `slipway` passes verifiers only; the passwords stay in the secrets' files.

-- The superuser logs in only inside the container, where it needs no password.
ALTER ROLE postgres PASSWORD :'postgres_verifier';

-- blog_migrator owns and changes the schema; only `flask migrate` logs in with this role.
SELECT 'CREATE ROLE blog_migrator' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_migrator') \gexec
ALTER ROLE blog_migrator LOGIN PASSWORD :'blog_migrator_verifier';

-- blog_app has the blog's privileges but no login. Each slot has a role that inherits the privileges and can log in while the slot runs.
SELECT 'CREATE ROLE blog_app NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_app') \gexec
SELECT 'CREATE ROLE blog_app_blue' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_app_blue') \gexec
SELECT 'CREATE ROLE blog_app_green' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_app_green') \gexec
ALTER ROLE blog_app_blue :blog_app_blue;
ALTER ROLE blog_app_green :blog_app_green;
GRANT blog_app TO blog_app_blue, blog_app_green;

-- A slot that was taken over leaves enough connections for the other slot, the migration and the superuser: 20 of 50 for each slot.
SELECT format('ALTER ROLE %I CONNECTION LIMIT %s', name,
              (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - 7) / 2)
FROM unnest(ARRAY['blog_app_blue', 'blog_app_green']) AS name \gexec
ALTER ROLE blog_migrator CONNECTION LIMIT 5;

REVOKE ALL ON DATABASE blog, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE blog TO blog_app;
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE blog TO blog_migrator;

ALTER SCHEMA public OWNER TO blog_migrator;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO blog_app;
ALTER DEFAULT PRIVILEGES FOR ROLE blog_migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO blog_app;
ALTER DEFAULT PRIVILEGES FOR ROLE blog_migrator IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO blog_app;

-- Only a migration writes down which migrations were applied; the blog reads it. The tables exist after the first migration.
SELECT format('REVOKE INSERT, UPDATE, DELETE ON %I FROM blog_app', name)
FROM unnest(ARRAY['alembic_version', 'schema_history']) AS name WHERE to_regclass(name) IS NOT NULL \gexec

-- Every role may call these functions by default. Large objects would fill the disk, and an advisory lock would block migrations.
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^(lo_creat|lo_create|lo_from_bytea|pg_(try_)?advisory_.*)$' \gexec
GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO blog_migrator;
