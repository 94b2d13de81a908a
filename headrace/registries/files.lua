-- Records of files; see functions.lua. `expiry` is the ms at which a file is overdue, '' if it never is.

local function store_file(P, id, tenant, purpose, expiry, body, arrival)
  redis.call('HSET', P .. 'record:' .. id, 'tenant', tenant, 'purpose', purpose, 'body', body, 'arrival', arrival)
  redis.call('ZADD', list_of(P, '', tenant), arrival, id)
  redis.call('ZADD', list_of(P, purpose, tenant), arrival, id)
  if expiry ~= '' then redis.call('ZADD', P .. 'expiry', expiry, id) end
end

local function unlist_file(P, id)
  local f = redis.call('HMGET', P .. 'record:' .. id, 'tenant', 'purpose')
  redis.call('ZREM', list_of(P, '', f[1]), id)
  redis.call('ZREM', list_of(P, f[2], f[1]), id)
  redis.call('ZREM', P .. 'expiry', id)
end

local function bodies(P, ids)
  local out = {}
  for i, id in ipairs(ids) do out[i] = redis.call('HGET', P .. 'record:' .. id, 'body') end
  return out
end

-- id tenant purpose expiry body has_key key hash -> {answer, id}
local function add_file(K, A)
  local P, id, tenant = K[1], A[1], A[2]
  local idem = idem_of(P, tenant, A[6], A[7])
  local before = made_before(P, id, idem, A[8])
  if before then return before end
  store_file(P, id, tenant, A[3], A[4], A[5], arrive(P))
  redis.call('HSET', P .. 'record:' .. id, 'key', idem, 'hash', A[8])
  if idem ~= '' then redis.call('SET', idem, id) end
  return {'new', id}
end

-- id tenant purpose expiry body whole   It keeps the place of the one that it replaces.
local function put_file(K, A)
  local P, id = K[1], A[1]
  local f = redis.call('HMGET', P .. 'record:' .. id, 'arrival', 'whole')
  -- Who still writes a file that is whole has lost its batch, and does not know yet.
  if f[2] and A[6] == '0' then return 0 end
  if f[1] then unlist_file(P, id) end
  store_file(P, id, A[2], A[3], A[4], A[5], f[1] or arrive(P))
  if A[6] == '1' then redis.call('HSET', P .. 'record:' .. id, 'whole', 1) end
  return 1
end

-- tenant id -> body or nil
local function get_file(K, A)
  return owned(K[1], A[1], A[2]) and redis.call('HGET', K[1] .. 'record:' .. A[2], 'body')
end

-- tenant purpose limit newest_first [after] -> body... or nil if `after` is not the tenant's
local function list_files(K, A)
  local P = K[1]
  if A[5] and not owned(P, A[1], A[5]) then return nil end
  return bodies(P, page(P, list_of(P, A[2], A[1]), A[5], A[3], A[4] == '1'))
end

-- tenant id -> 1, or 0 if it is not the tenant's
local function remove_file(K, A)
  if not owned(K[1], A[1], A[2]) then return 0 end
  unlist_file(K[1], A[2])
  erase(K[1], A[2])
  return 1
end

-- limit -> body...
local function overdue_files(K, A)
  return bodies(K[1], redis.call('ZRANGE', K[1] .. 'expiry', '-inf', now_ms(), 'BYSCORE', 'LIMIT', 0, A[1]))
end

register('add_file', add_file)
register('put_file', put_file, 'allow-oom')
register('get_file', get_file, 'no-writes')
register('list_files', list_files, 'no-writes')
register('remove_file', remove_file, 'allow-oom')
register('overdue_files', overdue_files, 'no-writes')
