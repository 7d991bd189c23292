//! Writing network coordinates.

use std::sync::Arc;

use super::Writer;
use crate::Error;
use crate::coordinate::NodeCoordinate;
use crate::record::coordinate::CoordinateRecord;
use crate::schema::Key;

/// Coordinates of one transaction: each has its node for a condition.
const AT_ONCE: usize = 64;

impl Writer {
    /// Stores where nodes are; unknown nodes are left out. The last one counts when a node is named twice.
    pub async fn update_coordinates(&self, updates: &[NodeCoordinate]) -> Result<(), Error> {
        for update in updates {
            update.coordinate.validate().map_err(Error::refused)?;
        }
        for some in updates.chunks(AT_ONCE) {
            self.write("write coordinates", |scratch| {
                for update in some {
                    let node = update.node.key();
                    if scratch.node(&node)?.is_none() {
                        continue;
                    }
                    let known = scratch.tables.coordinates.of_node(&node).find(|row| row.segment == update.segment);
                    if known.is_some_and(|row| **row == *update) {
                        continue;
                    }
                    let key = Key::Coordinate { node: Arc::clone(&node), segment: update.segment.as_str().into() };
                    scratch.draft.put(&key, &CoordinateRecord::new(update))?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
