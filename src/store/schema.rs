//! The tables as diesel sees them. A test compares this with a migrated database.

diesel::table! {
    index_state (singleton) {
        singleton -> Bool,
        revision -> Int8,
        database_id -> Uuid,
        nonce -> Uuid,
        accounts_nonce -> Uuid,
        trimmed_revision -> Int8,
    }
}

diesel::table! {
    index_revisions (revision) {
        revision -> Int8,
        nonce -> Uuid,
    }
}

diesel::table! {
    index_changes (revision, client_id) {
        revision -> Int8,
        client_id -> Uuid,
    }
}

diesel::table! {
    users (id) {
        id -> Uuid,
        instance_role -> Text,
        disabled -> Bool,
    }
}

diesel::table! {
    teams (id) {
        id -> Uuid,
        archived -> Bool,
    }
}

diesel::table! {
    team_members (team_id, user_id) {
        team_id -> Uuid,
        user_id -> Uuid,
        role -> Text,
    }
}

diesel::table! {
    sites (id) {
        id -> Uuid,
        team_id -> Uuid,
    }
}

diesel::table! {
    site_members (site_id, user_id) {
        site_id -> Uuid,
        user_id -> Uuid,
        role -> Text,
    }
}

diesel::table! {
    directory_state (singleton) {
        singleton -> Bool,
        applied_sequence -> Nullable<Int8>,
    }
}

diesel::table! {
    directory_order (singleton) {
        singleton -> Bool,
        last_place -> Int8,
        changed -> Int8,
        unnumbered -> Int8,
        started_over -> Int8,
    }
}

diesel::table! {
    api_clients (id) {
        id -> Uuid,
        owner_user_id -> Nullable<Uuid>,
        owner_team_id -> Nullable<Uuid>,
        name -> Text,
        description -> Text,
        instance_role -> Text,
        expire_time -> Nullable<Timestamptz>,
        revoke_time -> Nullable<Timestamptz>,
        created_by_user_id -> Nullable<Uuid>,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        allowed_cidrs -> Array<Text>,
        not_before_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    api_client_grants (client_id, site_id) {
        client_id -> Uuid,
        site_id -> Uuid,
        role -> Text,
    }
}

diesel::table! {
    api_client_tokens (hash) {
        hash -> Bytea,
        client_id -> Uuid,
        hint -> Text,
        create_time -> Timestamptz,
        end_time -> Nullable<Timestamptz>,
        scheme -> Text,
    }
}

diesel::table! {
    api_client_usage (client_id) {
        client_id -> Uuid,
        last_used_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    api_client_usage_days (client_id, day, outcome) {
        client_id -> Uuid,
        day -> Date,
        outcome -> Text,
        count -> Int8,
    }
}

diesel::table! {
    api_client_requests (lookup) {
        lookup -> Bytea,
        service_account_id -> Uuid,
        digest -> Bytea,
        create_time -> Timestamptz,
    }
}

diesel::table! {
    api_client_replies (token_hash) {
        token_hash -> Bytea,
        lookup -> Bytea,
        salt -> Bytea,
        sealed -> Bytea,
        revision -> Int8,
    }
}

diesel::table! {
    api_client_imports (client_id) {
        client_id -> Uuid,
        row_digest -> Bytea,
        token_hash -> Bytea,
        revoke_time -> Nullable<Timestamptz>,
        snapshot_time -> Timestamptz,
    }
}

diesel::table! {
    import_state (singleton) {
        singleton -> Bool,
        snapshot_time -> Nullable<Timestamptz>,
        directory_changed -> Int8,
    }
}

diesel::table! {
    audit_events (id) {
        id -> Uuid,
        event_time -> Timestamptz,
        action -> Text,
        client_id -> Uuid,
        client_name -> Text,
        owner_user_id -> Nullable<Uuid>,
        owner_team_id -> Nullable<Uuid>,
        actor_user_id -> Nullable<Uuid>,
        actor_ip_address -> Text,
        actor_user_agent -> Text,
        caller -> Text,
        request_id -> Text,
        changes -> Jsonb,
    }
}

diesel::table! {
    event_outbox (sequence) {
        sequence -> Int8,
        id -> Uuid,
        client_id -> Uuid,
        event_type -> Text,
        data -> Jsonb,
        create_time -> Timestamptz,
        attempts -> Int8,
        next_attempt_time -> Timestamptz,
        last_error -> Text,
        dead_time -> Nullable<Timestamptz>,
        try_until -> Timestamptz,
    }
}

diesel::table! {
    event_numbers (singleton) {
        singleton -> Bool,
        last_sequence -> Int8,
    }
}

diesel::table! {
    event_delivery (singleton) {
        singleton -> Bool,
        active_since -> Nullable<Timestamptz>,
        active_until -> Nullable<Timestamptz>,
        holder -> Nullable<Uuid>,
        held_until -> Nullable<Timestamptz>,
        stop_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    event_notices (client_id, event_type, about_time) {
        client_id -> Uuid,
        event_type -> Text,
        about_time -> Timestamptz,
    }
}

diesel::table! {
    service_accounts (id) {
        id -> Uuid,
        name -> Text,
        permissions -> Array<Text>,
        token_hash -> Bytea,
        token_hint -> Text,
        create_time -> Timestamptz,
        revoke_time -> Nullable<Timestamptz>,
        replaced_token_hash -> Nullable<Bytea>,
        replaced_token_end_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    replica_usage (replica_id) {
        replica_id -> Uuid,
        batch -> Int8,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    service_account_certificates (name) {
        name -> Text,
        service_account_id -> Uuid,
    }
}

diesel::joinable!(team_members -> teams (team_id));
diesel::joinable!(sites -> teams (team_id));
diesel::joinable!(api_client_tokens -> api_clients (client_id));
diesel::joinable!(api_client_usage -> api_clients (client_id));
diesel::joinable!(api_client_replies -> api_client_requests (lookup));
diesel::joinable!(api_client_replies -> api_client_tokens (token_hash));
diesel::joinable!(service_account_certificates -> service_accounts (service_account_id));
diesel::allow_tables_to_appear_in_same_query!(
    users,
    teams,
    team_members,
    sites,
    site_members,
    api_clients,
    api_client_grants,
    api_client_tokens,
    api_client_usage,
);
diesel::allow_tables_to_appear_in_same_query!(
    api_client_requests,
    api_client_replies,
    api_client_tokens,
    index_state,
);
diesel::allow_tables_to_appear_in_same_query!(service_accounts, service_account_certificates);
