//! One Lua script for each operation, so that it is atomic and takes one round trip.
//!
//! `EVAL` sends the whole script each time. `EVALSHA` would save some hundred bytes. But it needs one more command in
//! the ACL rule, and two more round trips if the server has forgotten the script. All keys of a call share a hash tag,
//! so a cluster runs the script on one node.

/// `KEYS`: record. Returns the version, the bytes and the age in milliseconds, or nil if there is no record.
pub(crate) const LOAD: &str = "
local record = redis.call('HMGET', KEYS[1], 'version', 'bytes', 'saved')
if not record[1] then return false end
local now = redis.call('TIME')
return {record[1], record[2], now[1] * 1000 + math.floor(now[2] / 1000) - record[3]}
";

/// `KEYS`: lease. `ARGV`: owner, time to live in milliseconds. Returns nil if this owner has the lease, or else its
/// owner and the remaining milliseconds.
pub(crate) const ACQUIRE: &str = "
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local owner = redis.call('GET', KEYS[1])
if owner ~= ARGV[1] then return {owner, redis.call('PTTL', KEYS[1])} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
";

/// `KEYS`: lease. `ARGV`: owner, time to live in milliseconds. Returns 1 if this owner has the lease, or else 0.
pub(crate) const EXTEND: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

/// `KEYS`: lease, record. `ARGV`: owner, channel, message.
///
/// Publishes the end of the lease, unless the record's last save is by this owner and has published already.
pub(crate) const RELEASE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
redis.call('DEL', KEYS[1])
if redis.call('HGET', KEYS[2], 'owner') ~= ARGV[1] then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
";

/// `KEYS`: lease, record. `ARGV`: owner, expected version or an empty text, bytes, time to live in milliseconds,
/// channel, message. Returns the new version, or nil for a conflict.
///
/// The version is the server's time in microseconds, or one more than the last version if that is greater. So a version
/// is not used again after the server lost its data. Lua's numbers are exact up to the year 2255.
///
/// A save may be repeated because its answer was lost. The repetition returns the version of the first save.
pub(crate) const SAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local record = redis.call('HMGET', KEYS[2], 'version', 'owner', 'expected', 'bytes')
if record[2] == ARGV[1] and record[3] == ARGV[2] and record[4] == ARGV[3] then return record[1] end
if (record[1] or '') ~= ARGV[2] then return false end
local now = redis.call('TIME')
local version = string.format('%.0f', math.max(now[1] * 1000000 + now[2], (record[1] or 0) + 1))
local saved = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[2], 'version', version, 'owner', ARGV[1], 'expected', ARGV[2], 'bytes', ARGV[3], 'saved', saved)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return version
";

/// `KEYS`: lease, record. `ARGV`: owner, expected version, time to live in milliseconds. Returns 1 if the record will
/// expire, or else 0.
pub(crate) const EXPIRE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[2] then return 0 end
return redis.call('PEXPIRE', KEYS[2], ARGV[3])
";

/// `KEYS`: lease, record, new name. `ARGV`: owner, expected version, time to live in milliseconds, channel, message.
/// Returns 1 if the record was moved, or else 0.
pub(crate) const SET_ASIDE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[2] then return 0 end
redis.call('RENAME', KEYS[2], KEYS[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
";
