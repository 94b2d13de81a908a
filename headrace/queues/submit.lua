-- What submitters ask; see functions.lua.

-- The epochs of one generation; see headrace/cursor.py.
local GENERATION_EPOCHS = 1048576

-- A submission, A: id tenant model lane attended has_key key hash prompt cost ttl grace max_live max_cost tenant_live tenant_cost body

local function key_of(P, A)
  return A[6] == '1' and P .. 'idem:' .. pair(A[2], A[7]) or ''
end

-- {'replay' or 'conflict', id} where its key or its id is known, else nil.
local function known(P, A)
  local key = key_of(P, A)
  local first = key ~= '' and redis.call('GET', key)
  if first then
    return {redis.call('HGET', P .. 'job:' .. first, 'hash') == A[8] and 'replay' or 'conflict', first}
  end
  if redis.call('EXISTS', P .. 'job:' .. A[1], P .. 'gone:' .. A[1]) > 0 then return {'replay', A[1]} end
  return nil
end

-- Counts and stores a job that is not known, in no state yet. Returns what refusal says, and then nothing was done, or nil.
local function store(P, A, t, us, of_tenant)
  local id, tenant, cost, key = A[1], A[2], tonumber(A[10]), key_of(P, A)
  local job, counters, own = P .. 'job:' .. id, P .. 'counters', P .. 'tenant:' .. tenant
  -- All jobs first: where a tenant has no bound of its own, it is given that of all.
  local all, mine = read_meter(counters), read_meter(own)
  local refused = refusal('', all, cost, tonumber(A[13]), tonumber(A[14]), t)
    or of_tenant and refusal('tenant ', mine, cost, tonumber(A[15]), tonumber(A[16]), t)
  if refused then return refused end
  meter_enter(counters, all, cost, t)
  meter_enter(own, mine, cost, t)
  -- Arrivals never tie, even where the clock stands or steps back.
  local last = redis.call('HMGET', counters, 'arrival', 'generation')
  local arrival = math.max(us, (last[1] or 0) + 1)
  redis.call('HSET', counters, 'arrival', arrival)
  redis.call('HSET', job, 'tenant', tenant, 'model', A[3], 'lane', A[4], 'key', key, 'hash', A[8], 'prompt', A[9], 'cost', cost,
    'arrival', arrival, 'accepted', t, 'deadline', t + A[11], 'reason', '', 'epoch', (last[2] or 0) * GENERATION_EPOCHS, 'released', 0,
    'n', 0, 'crash', 0, 'exp', 0)
  redis.call('SET', P .. 'body:' .. id, A[17])
  if A[4] ~= 'batch' then redis.call('ZADD', P .. 'jobs:' .. tenant, arrival, id) end
  if key ~= '' then redis.call('SET', key, id) end
  return nil
end

-- Puts a job of this submission in its lane. Only now its viewer's grace begins: while it was withheld nobody was told to wait.
local function let_in(P, A, id, t)
  if A[5] == '1' then redis.call('ZADD', P .. 'viewer', t + A[12], id) end
  enqueue(P, id, place(P, id))
end

-- False: it is not withheld.
local function release_withheld(P, A, id, t)
  if not is_withheld(P, id) then return false end
  detach(P, id)
  let_in(P, A, id, t)
  return true
end

-- a submission -> {answer, id}, or what refusal says
local function accept(K, A)
  local P, us = K[1], now_us()
  local t = math.floor(us / 1000)
  local there = known(P, A)
  if there then
    -- Reserved by somebody else, who may never come back: this caller has no log to wait for.
    if there[1] == 'replay' then release_withheld(P, A, there[2], t) end
    return there
  end
  local refused = store(P, A, t, us, true)
  if refused then return refused end
  let_in(P, A, A[1], t)
  return {'new', A[1]}
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
    'deadline', 'arrival', 'withheld')
  f[1] = shown(f[1], f[12])
  -- Older callers take exactly this many fields.
  return {answer, redis.call('GET', P .. 'body:' .. id), unpack(f, 1, 11)}
end

-- id... -> state or nil...
local function states(K, A)
  local out = {}
  for i = 1, #A do
    local f = redis.call('HMGET', K[1] .. 'job:' .. A[i], 'state', 'withheld')
    out[i] = shown(f[1], f[2])
  end
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
