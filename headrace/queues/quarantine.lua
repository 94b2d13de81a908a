-- Suspects, and the worker that runs them one by one; see functions.lua. headrace/testing/queue/quarantine.py says the same in Python.

local TURN_MS = 5000

-- Whether it is this worker's turn to run the suspects of a model. If it is nobody's, it becomes this worker's once the first of them has
-- waited for `patience` ms.
local function is_warden(P, model, worker, patience, t)
  local first = redis.call('ZRANGE', P .. 'suspects:' .. model, 0, 0, 'WITHSCORES')
  if not first[1] then return false end
  local key = P .. 'warden:' .. model
  local warden = redis.call('HMGET', key, 'worker', 'until')
  if warden[1] and t < tonumber(warden[2]) then return warden[1] == worker and t < warden[2] - TURN_MS end
  if t < first[2] + patience then return false end
  redis.call('HSET', key, 'worker', worker, 'until', t + 2 * TURN_MS)
  return true
end

-- worker model... -> 1 if the worker, which is busy, should give back all it holds
local function summon(K, A)
  local P, t = K[1], now_ms()
  for i = 2, #A do
    if is_warden(P, A[i], A[1], TURN_MS, t) then return 1 end
  end
  return 0
end

-- worker nonce model... -> 'known' (one was claimed under this nonce), 'work' or 'none'
local function suspects(K, A)
  local P = K[1]
  if redis.call('EXISTS', P .. 'claim:' .. pair(A[1], A[2])) == 1 then return 'known' end
  for i = 3, #A do
    if redis.call('EXISTS', P .. 'suspects:' .. A[i]) == 1 then return 'work' end
  end
  return 'none'
end

-- worker nonce lease_ms model... -> {{id, epoch, n, body}} or {}
local function claim_suspect(K, A)
  local P, t = K[1], now_ms()
  local known = recall(P, A[1], A[2])
  if known then return known end
  for i = 4, #A do
    if is_warden(P, A[i], A[1], 0, t) then
      local id = redis.call('ZRANGE', P .. 'suspects:' .. A[i], 0, 0)[1]
      local f = redis.call('HMGET', P .. 'job:' .. id, 'epoch', 'n')
      local epoch, n = f[1] + 1, tonumber(f[2])
      lease(P, id, place(P, id), A[1], epoch, n, t, A[3])
      remember(P, A[1], A[2], A[3], id, epoch)
      return {claimed(P, id, epoch, n)}
    end
  end
  return {}
end

register('suspects', suspects, 'no-writes')
register('claim_suspect', claim_suspect, 'allow-oom')
register('summon', summon, 'allow-oom')
