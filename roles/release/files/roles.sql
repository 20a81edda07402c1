-- Who may do what in the database. Run as the superuser before each release; running it again changes nothing.
-- The program `slipway` sets the verifiers: the passwords themselves stay in the secrets' files.

-- Stays inside the container, where it needs no password.
ALTER ROLE postgres PASSWORD :'postgres_verifier';

-- Owns the schema and changes it; only `flask migrate` logs in as this.
SELECT 'CREATE ROLE blog_migrator' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_migrator') \gexec
ALTER ROLE blog_migrator LOGIN PASSWORD :'blog_migrator_verifier';

-- What the blog may do, apart from the logins that do it: each slot has one, which is valid while the slot runs.
SELECT 'CREATE ROLE blog_app NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_app') \gexec
SELECT 'CREATE ROLE blog_app_blue' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_app_blue') \gexec
SELECT 'CREATE ROLE blog_app_green' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'blog_app_green') \gexec
ALTER ROLE blog_app_blue :blog_app_blue;
ALTER ROLE blog_app_green :blog_app_green;
GRANT blog_app TO blog_app_blue, blog_app_green;

REVOKE ALL ON DATABASE blog FROM PUBLIC;
GRANT CONNECT ON DATABASE blog TO blog_app;
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE blog TO blog_migrator;

ALTER SCHEMA public OWNER TO blog_migrator;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO blog_app;
ALTER DEFAULT PRIVILEGES FOR ROLE blog_migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO blog_app;
ALTER DEFAULT PRIVILEGES FOR ROLE blog_migrator IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO blog_app;
