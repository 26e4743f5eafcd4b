"""What lives in Redis, or Valkey: a link that never mixes up replies, and what is kept over it."""
