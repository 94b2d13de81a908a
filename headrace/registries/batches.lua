-- Batches and the leases of those who work on them; see functions.lua.
--
-- A field of an answer stands behind its name, as HGETALL has them.

local function runs(until_ms, t)
  return until_ms and tonumber(until_ms) > t
end

local function lease(P, id, t, lease_ms)
  redis.call('HSET', P .. 'record:' .. id, 'until', t + lease_ms)
  redis.call('ZADD', P .. 'due', t + lease_ms, id)
end

-- The one way into a status that a batch is not created in.
local function enter(P, id, status, ends, t)
  local record = P .. 'record:' .. id
  redis.call('HSET', record, 'status', status, status .. '_ms', t)
  redis.call('SREM', P .. 'stalled', id)
  if ends then
    redis.call('HSET', record, 'ended', t)
    redis.call('HDEL', record, 'holder', 'until', 'unseen')
    redis.call('ZREM', P .. 'due', id)
    redis.call('ZADD', P .. 'ended', t, id)
  end
end

-- Whether `status` is one of A[first] to A[last].
local function among(status, A, first, last)
  for i = first, last do
    if A[i] == status then return true end
  end
  return false
end

-- id tenant status window new has_key key hash -> {answer, id}
local function create_batch(K, A)
  local P, id, tenant = K[1], A[1], A[2]
  local idem = idem_of(P, tenant, A[6], A[7])
  local before = made_before(P, id, idem, A[8])
  if before then return before end
  local t, arrival = now_ms(), arrive(P)
  redis.call('HSET', P .. 'record:' .. id, 'tenant', tenant, 'arrival', arrival, 'key', idem, 'hash', A[8],
    'new', A[5], 'status', A[3], 'created_ms', t, 'expires_ms', t + A[4], 'epoch', 0)
  redis.call('ZADD', list_of(P, '', tenant), arrival, id)
  redis.call('ZADD', P .. 'due', t, id)
  if idem ~= '' then redis.call('SET', idem, id) end
  return {'new', id}
end

-- tenant key hash -> {answer, id} or nil
local function batch_made_before(K, A)
  return made_before(K[1], '', idem_of(K[1], A[1], '1', A[2]), A[3])
end

-- tenant id -> fields, none if it is not the tenant's
local function get_batch(K, A)
  return owned(K[1], A[1], A[2]) and redis.call('HGETALL', K[1] .. 'record:' .. A[2]) or {}
end

-- tenant limit [after] -> id..., newest first, or nil if `after` is not the tenant's
local function list_batches(K, A)
  local P = K[1]
  if A[3] and not owned(P, A[1], A[3]) then return nil end
  return page(P, list_of(P, '', A[1]), A[3], A[2], true)
end

-- tenant id status source... -> {'ok' or 'late', fields}, or {'missing'}
local function cancel_batch(K, A)
  local P, id, t = K[1], A[2], now_ms()
  local record = P .. 'record:' .. id
  if not owned(P, A[1], id) then return {'missing'} end
  local f = redis.call('HMGET', record, 'status', 'holder', 'until')
  if f[1] ~= A[3] then
    if not among(f[1], A, 4, #A) then return {'late', redis.call('HGETALL', record)} end
    enter(P, id, A[3], false, t)
    -- A holder learns of it by his next update. Should he give the batch back before one, his delay is not for this.
    if f[2] then redis.call('HSET', record, 'unseen', 1) end
    if not runs(f[3], t) then redis.call('ZADD', P .. 'due', t, id) end
  end
  return {'ok', redis.call('HGETALL', record)}
end

-- limit again -> id...
local function dispatch_batches(K, A)
  local P, t = K[1], now_ms()
  local ids = redis.call('ZRANGE', P .. 'due', '-inf', t, 'BYSCORE', 'LIMIT', 0, A[1])
  for _, id in ipairs(ids) do redis.call('ZADD', P .. 'due', t + A[2], id) end
  return ids
end

-- id holder lease -> {epoch, fields} or nil
local function acquire_batch(K, A)
  local P, id, t = K[1], A[1], now_ms()
  local record = P .. 'record:' .. id
  local f = redis.call('HMGET', record, 'epoch', 'ended', 'holder', 'until')
  if not f[1] or f[2] then return nil end
  -- The same holder asks again: the first answer was lost, and so is its epoch unless he gets it again.
  if runs(f[4], t) and f[3] ~= A[2] then return nil end
  if not runs(f[4], t) then redis.call('HSET', record, 'epoch', f[1] + 1, 'holder', A[2]) end
  redis.call('HDEL', record, 'unseen')
  lease(P, id, t, A[3])
  return {redis.call('HGET', record, 'epoch'), redis.call('HGETALL', record)}
end

-- id epoch lease status ends #sources source... field value ... -> fields, none if the lease is lost
local function update_batch(K, A)
  local P, id, t, from = K[1], A[1], now_ms(), 7 + A[6]
  local record = P .. 'record:' .. id
  local f = redis.call('HMGET', record, 'epoch', 'ended', 'holder', 'status')
  -- Only a holder ends a batch and nobody leases it afterwards: the last epoch is his who ended it.
  if f[1] ~= A[2] or not (f[2] or f[3]) then return {} end
  if not f[2] then
    if from <= #A then redis.call('HSET', record, unpack(A, from)) end
    redis.call('HDEL', record, 'unseen')
    lease(P, id, t, A[3])
    if among(f[4], A, 7, from - 1) then enter(P, id, A[4], A[5] == '1', t) end
  end
  return redis.call('HGETALL', record)
end

-- id epoch delay stalled
local function release_batch(K, A)
  local P, id = K[1], A[1]
  local record = P .. 'record:' .. id
  local f = redis.call('HMGET', record, 'epoch', 'holder', 'unseen')
  if f[1] ~= A[2] or not f[2] then return 0 end
  redis.call('HDEL', record, 'holder', 'until', 'unseen')
  redis.call('ZADD', P .. 'due', now_ms() + (f[3] and 0 or A[3]), id)
  redis.call(A[4] == '1' and 'SADD' or 'SREM', P .. 'stalled', id)
  return 1
end

-- limit retention -> id...
local function purge_batches(K, A)
  local P = K[1]
  local ids = redis.call('ZRANGE', P .. 'ended', '-inf', now_ms() - A[2], 'BYSCORE', 'LIMIT', 0, A[1])
  for _, id in ipairs(ids) do
    redis.call('ZREM', list_of(P, '', redis.call('HGET', P .. 'record:' .. id, 'tenant')), id)
    redis.call('ZREM', P .. 'ended', id)
    erase(P, id)
  end
  return ids
end

register('create_batch', create_batch)
register('batch_made_before', batch_made_before, 'no-writes')
register('get_batch', get_batch, 'no-writes')
register('list_batches', list_batches, 'no-writes')
register('cancel_batch', cancel_batch, 'allow-oom')
register('dispatch_batches', dispatch_batches, 'allow-oom')
register('acquire_batch', acquire_batch, 'allow-oom')
register('update_batch', update_batch, 'allow-oom')
register('release_batch', release_batch, 'allow-oom')
register('purge_batches', purge_batches, 'allow-oom')
