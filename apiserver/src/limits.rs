//! How much of a client's is looked at, made or kept: one table. Upstream's value where upstream has one.

/// A request's body, in bytes (upstream's `MaxRequestBodyBytes`).
pub const REQUEST_BYTES: usize = 3 << 20;

/// One object as it is stored, in bytes (etcd's `--max-request-bytes`).
pub const STORED_BYTES: usize = 3 << 19;

/// How deep an object may be nested that is stored. The parser gives up at 128: what is left is for lists, tables, watch
/// events and reviews, which hold the object inside and must be readable, too. (Upstream's own depth is 10,000.)
pub const STORED_DEPTH: usize = 118;

/// How deep a body may be nested that only passes through.
pub const BODY_DEPTH: usize = 126;

/// The operations of a JSON patch (upstream's `maxJSONPatchOperations`).
pub const PATCH_OPERATIONS: usize = 10_000;

/// What the `copy` operations of a JSON patch may add, in bytes of JSON (upstream's `JSONPatchMaxCopyBytes`).
pub const PATCH_COPIED_BYTES: usize = 3 << 20;

/// What the operations of a JSON patch may cost beyond reading them: values that are looked at, list items that move.
pub const PATCH_STEPS: usize = 20_000_000;

/// What anchors and aliases may add to a YAML body, in bytes of memory.
pub const YAML_ALIASED_BYTES: usize = 16 << 20;

/// How many unknown and duplicate fields are told of (upstream's number), and in how many bytes.
pub const NOTICES: usize = 100;
pub const NOTICED_BYTES: usize = 256 << 10;

/// The fields that the form of a kind adds to a body: each has at least eight bytes, so that more of them could not be
/// stored.
pub const ADDED_FIELDS: usize = STORED_BYTES / 8;

/// The bytes that a schema's defaults may add to an object.
pub const DEFAULTED_BYTES: usize = 2 * STORED_BYTES;

/// How much of what is wrong with an object is told, in bytes: field errors, and conflicts of an apply.
pub const TOLD_BYTES: usize = 1 << 20;

/// All annotations of an object together, in bytes (upstream's `TotalAnnotationSizeLimitB`).
pub const ANNOTATION_BYTES: usize = 256 << 10;

/// The entries of updates in `managedFields`; older ones are joined (upstream's `DefaultMaxUpdateManagers`).
pub const UPDATE_MANAGERS: usize = 10;

/// The name of a field manager, and of a subresource in `managedFields`, in bytes.
pub const MANAGER_BYTES: usize = 128;
pub const SUBRESOURCE_BYTES: usize = 256;

/// From how many bytes on, of body and stored object together, a request is worked on apart from the async workers.
pub const APART_BYTES: usize = 64 << 10;

/// The bytes of such requests that are worked on at once, and of one user: what is made of a byte takes a hundred and more.
/// One that has more waits until it is alone.
pub const APART_AT_ONCE: usize = 2 << 20;
pub const APART_OF_USER: usize = 512 << 10;

/// Up to how many bytes answers are not compressed (upstream's `defaultGzipThresholdBytes`).
pub const GZIP_BYTES: u64 = 128 << 10;

/// How many warnings of one object are made: more than an answer says.
pub const WARNINGS: usize = 200;

/// The characters of all warnings of an answer together, and of each where they are more (upstream's
/// `truncateAtTotalRunes` and `truncateItemRunes`).
pub const WARNING_CHARS: usize = 4 << 10;
pub const LONG_WARNING_CHARS: usize = 256;
