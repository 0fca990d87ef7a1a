//! Raw SQL statements that stay prepared.

use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::Untyped,
};

/// A statement without parameters. `diesel::sql_query` is never kept prepared, which costs a
/// round trip and planning each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statement(pub(super) &'static str);

// The cache key is the text.
impl QueryId for Statement {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Pg> for Statement {
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        pass.push_sql(self.0);
        Ok(())
    }
}

impl Query for Statement {
    type SqlType = Untyped;
}
