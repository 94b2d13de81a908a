-- What submitters ask; see functions.lua.

-- id tenant model lane attended has_key key hash prompt cost ttl grace max_live max_cost tenant_live tenant_cost body
-- -> {answer, id}, or what refusal says
local function accept(K, A)
  local P, id, tenant, cost = K[1], A[1], A[2], tonumber(A[10])
  local job, counters, own, key = P .. 'job:' .. id, P .. 'counters', P .. 'tenant:' .. tenant, ''
  if A[6] == '1' then
    key = P .. 'idem:' .. pair(tenant, A[7])
    local first = redis.call('GET', key)
    if first then
      return {redis.call('HGET', P .. 'job:' .. first, 'hash') == A[8] and 'replay' or 'conflict', first}
    end
  end
  if redis.call('EXISTS', job, P .. 'gone:' .. id) > 0 then return {'replay', id} end
  local us = now_us()
  local t = math.floor(us / 1000)
  -- All jobs first: where a tenant has no bound of its own, it is given that of all.
  local all, mine = read_meter(counters), read_meter(own)
  local refused = refusal('', all, cost, tonumber(A[13]), tonumber(A[14]), t)
    or refusal('tenant ', mine, cost, tonumber(A[15]), tonumber(A[16]), t)
  if refused then return refused end
  meter_enter(counters, all, cost, t)
  meter_enter(own, mine, cost, t)
  -- Arrivals never tie, even where the clock stands or steps back.
  local arrival = math.max(us, (redis.call('HGET', counters, 'arrival') or 0) + 1)
  redis.call('HSET', counters, 'arrival', arrival)
  redis.call('HSET', job, 'tenant', tenant, 'model', A[3], 'lane', A[4], 'key', key, 'hash', A[8], 'prompt', A[9], 'cost', cost,
    'arrival', arrival, 'accepted', t, 'deadline', t + A[11], 'reason', '', 'epoch', 0, 'released', 0, 'n', 0, 'crash', 0, 'exp', 0)
  redis.call('SET', P .. 'body:' .. id, A[17])
  if A[4] ~= 'batch' then redis.call('ZADD', P .. 'jobs:' .. tenant, arrival, id) end
  if key ~= '' then redis.call('SET', key, id) end
  if A[5] == '1' then redis.call('ZADD', P .. 'viewer', t + A[12], id) end
  enqueue(P, id, place(P, id))
  return {'new', id}
end

-- tenant id -> standing
local function owner(K, A)
  return standing(K[1], A[1], A[2])
end

-- tenant id -> {standing, body, field...}
local function get(K, A)
  local P, id = K[1], A[2]
  local answer = standing(P, A[1], id)
  if answer ~= 'mine' then return {answer} end
  local f = redis.call('HMGET', P .. 'job:' .. id, 'state', 'reason', 'epoch', 'n', 'crash', 'cancel', 'accepted', 'started', 'ended',
    'deadline', 'arrival')
  return {answer, redis.call('GET', P .. 'body:' .. id), unpack(f)}
end

-- id... -> state or nil...
local function states(K, A)
  local out = {}
  for i = 1, #A do out[i] = redis.call('HGET', K[1] .. 'job:' .. A[i], 'state') end
  return out
end

-- tenant arrival limit -> id, arrival, ... newest first, from `arrival` (included) down
local function list(K, A)
  return redis.call('ZRANGE', K[1] .. 'jobs:' .. A[1], A[2], '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, A[3], 'WITHSCORES')
end

-- tenant id -> {standing, rank or nil}
local function position(K, A)
  local P, id = K[1], A[2]
  local answer = standing(P, A[1], id)
  if answer ~= 'mine' then return {answer} end
  return {answer, redis.call('ZRANK', place(P, id).queue, id)}
end

-- tenant id -> {standing, state}
local function cancel(K, A)
  local answer = standing(K[1], A[1], A[2])
  if answer ~= 'mine' then return {answer} end
  return {answer, cancel_job(K[1], A[2], 'cancelled', now_ms())}
end

-- grace id...
local function attend(K, A)
  local due = now_ms() + A[1]
  for i = 2, #A do redis.call('ZADD', K[1] .. 'viewer', 'XX', due, A[i]) end
  return #A - 1
end

-- Proves that the store takes new work: like accept it is refused once maxmemory is reached.
local function ping(K, A)
  redis.call('SET', K[1] .. 'ping', 1, 'PX', 60000)
  return 1
end

register('accept', accept)
register('owner', owner, 'no-writes')
register('get', get, 'no-writes')
register('states', states, 'no-writes')
register('list', list, 'no-writes')
register('position', position, 'no-writes')
register('cancel', cancel, 'allow-oom')
register('attend', attend, 'allow-oom')
register('ping', ping)
