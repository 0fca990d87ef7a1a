//! A connection that runs diesel's queries on tokio-postgres.
//!
//! diesel-async has such a connection too, but its errors lack the SQLSTATE, for which
//! diesel's `DatabaseErrorInformation` has no field: an outage would differ from a defect
//! only in the text of a message, which is in the server's language. This connection wraps
//! the whole error of tokio-postgres instead (see [`failed`]). Once diesel passes SQLSTATEs
//! on, and diesel-async fills them in, this file can be deleted.
//!
//! Statements stay prepared if diesel allows it. Only Postgres's built-in types are
//! supported.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use diesel::{
    QueryResult,
    pg::{Pg, PgMetadataLookup, PgQueryBuilder, PgTypeMetadata, PgValue},
    query_builder::{
        AsQuery, QueryBuilder, QueryFragment, QueryId, bind_collector::RawBytesBindCollector,
    },
    result::Error as DieselError,
    row::{Field, PartialRow, Row as DieselRow, RowIndex, RowSealed},
};
use diesel_async::{AsyncConnectionCore, SimpleAsyncConnection};
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, ready},
    stream::BoxStream,
};
use tokio_postgres::{
    CancelToken, Client, Statement,
    types::{FromSql, IsNull, ToSql, Type, private::BytesMut},
};

use super::{
    identity::{Identity, ServerId, Unsuitable},
    wire::{Driver, Wire},
};
use crate::domain::Timestamp;

/// A connection. Statements that are polled concurrently, through shared references, are
/// pipelined in the order of their first polls.
pub(super) struct Connection {
    client: Client,
    /// Prepared statements by their text.
    prepared: Mutex<HashMap<String, Prepared>>,
    /// The server that the connection was opened to, once identified.
    server: Option<ServerId>,
    _driver: Driver,
}

/// A prepared statement, and the types of its columns.
#[derive(Clone)]
struct Prepared {
    statement: Statement,
    columns: Arc<[NonZeroU32]>,
}

/// A query that diesel rendered.
struct Built {
    sql: String,
    may_be_kept: bool,
    parameters: Vec<(Type, Parameter)>,
}

/// A value in Postgres's binary format. It may be secret, so that its `Debug` hides it.
struct Parameter(Option<Vec<u8>>);

/// A row of a result.
pub(super) struct Row {
    row: tokio_postgres::Row,
    columns: Arc<[NonZeroU32]>,
}

/// A value of a row.
pub(super) struct Value<'a> {
    row: &'a Row,
    at: usize,
}

struct Bytes<'a>(&'a [u8]);

/// Looks up no types beyond diesel's built-in ones.
struct NoOtherTypes;

/// Wraps an error of tokio-postgres in diesel's variant for arbitrary errors, from which it
/// can be downcast.
pub(super) fn failed(error: tokio_postgres::Error) -> DieselError {
    DieselError::QueryBuilderError(Box::new(error))
}

impl Connection {
    /// Spawns a task that polls the wire.
    pub(super) fn new(client: Client, wire: Wire) -> Self {
        Self {
            client,
            prepared: Mutex::default(),
            server: None,
            _driver: Driver::of(wire),
        }
    }

    /// Queries the server's identity, and binds the connection to that server.
    pub(super) async fn identify(&mut self) -> Result<Identity, tokio_postgres::Error> {
        let sql = format!("SELECT {}", Identity::SQL);
        let identity = Identity::read(&self.client.query_one(&sql, &[]).await?, 0)?;
        self.server = Some(identity.server);
        Ok(identity)
    }

    /// The server that the connection was opened to, once identified.
    pub(super) const fn server(&self) -> Option<ServerId> {
        self.server
    }

    /// Requires that the connection still reaches the server that it was opened to, by the
    /// start time that the server reports.
    pub(super) fn require_server(&self, started: Timestamp) -> QueryResult<()> {
        match self.server {
            Some(server) if server != ServerId::of(started) => Err(DieselError::QueryBuilderError(
                Box::new(Unsuitable::ServerChanged),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// A token that cancels the running statement.
    pub(super) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }

    async fn prepare(&self, built: &Built) -> QueryResult<Prepared> {
        let kept = self.prepared().get(&built.sql).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let types: Vec<_> = built.parameters.iter().map(|(t, _)| t.clone()).collect();
        let prepared = self.client.prepare_typed(&built.sql, &types).await;
        let statement = prepared.map_err(failed)?;
        let columns = statement.columns().iter();
        let columns = columns.map(|column| NonZeroU32::new(column.type_().oid()));
        let no_type = || DieselError::DeserializationError("a column without a type".into());
        let prepared = Prepared {
            columns: columns.collect::<Option<_>>().ok_or_else(no_type)?,
            statement,
        };
        if built.may_be_kept {
            self.prepared().insert(built.sql.clone(), prepared.clone());
        }
        Ok(prepared)
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<String, Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load_built(&self, built: Built) -> QueryResult<BoxStream<'static, QueryResult<Row>>> {
        let Prepared { statement, columns } = self.prepare(&built).await?;
        let values = built.parameters.into_iter().map(|(_, value)| value);
        let rows = self.client.query_raw(&statement, values).await;
        let rows = rows.map_err(failed)?.map_err(failed);
        let row = move |row| Row {
            row,
            columns: Arc::clone(&columns),
        };
        Ok(rows.map_ok(row).boxed())
    }

    async fn execute_built(&self, built: Built) -> QueryResult<usize> {
        let Prepared { statement, .. } = self.prepare(&built).await?;
        let values = built.parameters.into_iter().map(|(_, value)| value);
        let done = self.client.execute_raw(&statement, values).await;
        let rows = done.map_err(failed)?;
        usize::try_from(rows).map_err(|error| DieselError::DeserializationError(error.into()))
    }
}

impl Built {
    fn of(query: &(impl QueryFragment<Pg> + ?Sized)) -> QueryResult<Self> {
        let mut builder = PgQueryBuilder::default();
        query.to_sql(&mut builder, &Pg)?;
        let mut binds = RawBytesBindCollector::<Pg>::new();
        query.collect_binds(&mut binds, &mut NoOtherTypes, &Pg)?;
        let parameters = binds.metadata.iter().zip(binds.binds);
        let parameters = parameters.map(|(of_type, value)| {
            let oid = of_type.oid();
            let oid = oid.map_err(|error| DieselError::SerializationError(error.into()))?;
            let unknown = || DieselError::SerializationError(format!("type {oid}").into());
            let known = Type::from_oid(oid).ok_or_else(unknown)?;
            Ok((known, Parameter(value)))
        });
        Ok(Self {
            sql: builder.finish(),
            may_be_kept: query.is_safe_to_cache_prepared(&Pg)?,
            parameters: parameters.collect::<QueryResult<_>>()?,
        })
    }
}

impl SimpleAsyncConnection for Connection {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        (&mut &*self).batch_execute(query).await
    }
}

impl SimpleAsyncConnection for &Connection {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        self.client.batch_execute(query).await.map_err(failed)
    }
}

impl AsyncConnectionCore for Connection {
    type ExecuteFuture<'conn, 'query> = BoxFuture<'conn, QueryResult<usize>>;
    type LoadFuture<'conn, 'query> = BoxFuture<'conn, QueryResult<Self::Stream<'conn, 'query>>>;
    type Stream<'conn, 'query> = BoxStream<'static, QueryResult<Row>>;
    type Row<'conn, 'query> = Row;
    type Backend = Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Pg> + QueryId + 'query,
    {
        AsyncConnectionCore::load(&mut &*self, source)
    }

    fn execute_returning_count<'conn, 'query, T>(
        &'conn mut self,
        source: T,
    ) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Pg> + QueryId + 'query,
    {
        (&mut &*self).execute_returning_count(source)
    }
}

impl<'a> AsyncConnectionCore for &'a Connection {
    type ExecuteFuture<'conn, 'query> = BoxFuture<'a, QueryResult<usize>>;
    type LoadFuture<'conn, 'query> = BoxFuture<'a, QueryResult<Self::Stream<'conn, 'query>>>;
    type Stream<'conn, 'query> = BoxStream<'static, QueryResult<Row>>;
    type Row<'conn, 'query> = Row;
    type Backend = Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Pg> + QueryId + 'query,
    {
        // The query is not `Send`, so that it must not outlive this call.
        match Built::of(&source.as_query()) {
            Ok(built) => self.load_built(built).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn execute_returning_count<'conn, 'query, T>(
        &'conn mut self,
        source: T,
    ) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Pg> + QueryId + 'query,
    {
        match Built::of(&source) {
            Ok(built) => self.execute_built(built).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }
}

impl RowSealed for Row {}

impl<'a> DieselRow<'a, Pg> for Row {
    type Field<'f>
        = Value<'f>
    where
        'a: 'f,
        Self: 'f;
    type InnerPartialRow = Self;

    fn field_count(&self) -> usize {
        self.row.len()
    }

    fn get<'f, I>(&'f self, at: I) -> Option<Value<'f>>
    where
        'a: 'f,
        Self: RowIndex<I>,
    {
        let at = self.idx(at)?;
        Some(Value { row: self, at })
    }

    fn partial_row(&self, range: Range<usize>) -> PartialRow<'_, Self> {
        PartialRow::new(self, range)
    }
}

impl RowIndex<usize> for Row {
    fn idx(&self, at: usize) -> Option<usize> {
        (at < self.row.len()).then_some(at)
    }
}

impl RowIndex<&str> for Row {
    fn idx(&self, name: &str) -> Option<usize> {
        let mut columns = self.row.columns().iter();
        columns.position(|column| column.name() == name)
    }
}

impl<'a> Field<'a, Pg> for Value<'a> {
    fn field_name(&self) -> Option<&str> {
        Some(self.row.row.columns()[self.at].name())
    }

    fn value(&self) -> Option<PgValue<'_>> {
        let bytes: Option<Bytes<'_>> = self.row.row.get(self.at);
        let Bytes(bytes) = bytes?;
        Some(PgValue::new(bytes, &self.row.columns[self.at]))
    }
}

impl<'a> FromSql<'a> for Bytes<'a> {
    fn from_sql(
        _: &Type,
        bytes: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(bytes))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Parameter {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(bytes) = &self.0 else {
            return Ok(IsNull::Yes);
        };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    // The statement was prepared with these types, so that no check is needed.
    fn to_sql_checked(
        &self,
        of_type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(of_type, out)
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parameter(…)")
    }
}

impl PgMetadataLookup for NoOtherTypes {
    fn lookup_type(&mut self, _: &str, _: Option<&str>) -> PgTypeMetadata {
        // OID 0 is invalid, so that the query fails before it is sent.
        PgTypeMetadata::new(0, 0)
    }
}
