-- The edge's filter: strips headers that only the edge may write, and sorts a request by its user into one of 1000 buckets.
-- A user is the key and `safety_identifier` or `user` of the body; `deepwell.fleet.deploy.mesh.bucket_of` is the same in Python.
local bit = require("bit")
local bxor, band, lshift, rshift, tobit = bit.bxor, bit.band, bit.lshift, bit.rshift, bit.tobit

local function times(a, b)
  local high, low = rshift(a, 16), band(a, 0xffff)
  return tobit(lshift(tobit(high * b % 4294967296), 16) + tobit(low * b % 4294967296))
end

-- FNV-1a over the bytes, and the finaliser of MurmurHash3, without which neighbours land in neighbouring buckets.
local function bucket(text)
  local hash = tobit(0x811c9dc5)
  for place = 1, #text do
    hash = bxor(hash, text:byte(place))
    hash = tobit(hash + lshift(hash, 1) + lshift(hash, 4) + lshift(hash, 7) + lshift(hash, 8) + lshift(hash, 24))
  end
  hash = times(bxor(hash, rshift(hash, 16)), 0x85ebca6b)
  hash = times(bxor(hash, rshift(hash, 13)), 0xc2b2ae35)
  hash = bxor(hash, rshift(hash, 16))
  return (hash % 4294967296) % 1000
end

-- Returns the end of the string that begins behind `place`, the place of its closing quote.
local function closing(text, place)
  while true do
    local quote = text:find('"', place + 1, true)
    if not quote then return nil end
    local slashes = quote - 1
    while slashes > place and text:byte(slashes) == 92 do slashes = slashes - 1 end
    if (quote - 1 - slashes) % 2 == 0 then return quote end
    place = quote
  end
end

-- Returns the strings of the two names at the top of a JSON object; what lies deeper belongs to somebody's messages.
local function user_of(text)
  local found, depth, place = {}, 0, 1
  while true do
    local at = text:find('["{}%[%]]', place)
    if not at then break end
    local sign = text:sub(at, at)
    if sign == '"' then
      local stop = closing(text, at)
      if not stop then break end
      local name = text:sub(at + 1, stop - 1)
      if depth == 1 and (name == "user" or name == "safety_identifier") then
        local opened = text:match('^%s*:%s*()"', stop + 1)
        local last = opened and closing(text, opened)
        if last then
          found[name] = text:sub(opened + 1, last - 1)
          stop = last
        end
      end
      place = stop + 1
    else
      depth = depth + ((sign == "{" or sign == "[") and 1 or -1)
      place = at + 1
    end
  end
  return found.safety_identifier or found.user or ""
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local preview = headers:get("x-deepwell-release") == "candidate"
  local strange = {}
  for name, _ in pairs(headers) do
    if name:sub(1, 11) == "x-deepwell-" or name:sub(1, 8) == "x-tenant" then strange[name] = true end
  end
  for name, _ in pairs(strange) do headers:remove(name) end
  if preview then headers:add("x-deepwell-release", "candidate") end
  local key = headers:get("authorization") or headers:get("x-api-key") or ""
  local user = ""
  local kind = headers:get("content-type") or ""
  if headers:get(":method") == "POST" and kind:sub(1, 16) == "application/json" then
    local body = handle:body()
    if body and body:length() > 0 then user = user_of(body:getBytes(0, body:length())) end
  end
  if key ~= "" or user ~= "" then
    -- Taken anew: what was taken before the body came is not valid any more.
    handle:headers():add("x-deepwell-bucket", tostring(bucket(key .. "\n" .. user)))
  end
  -- The route was chosen by what came from outside.
  handle:clearRouteCache()
end
