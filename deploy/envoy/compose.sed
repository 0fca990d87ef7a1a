# Makes of envoy.yaml what docker-compose.yml needs: the addresses of its network.
/CHANGE: where clients come in/{n;s/127\.0\.0\.1/0.0.0.0/}
/CHANGE: where hitkeep-auth is/{n;s/127\.0\.0\.1/hitkeep-auth/}
/CHANGE: what is behind Envoy/{n;s/127\.0\.0\.1/upstream/}
