-- The shop in redis, with the checks of the other peers: an account is a hash, the ledger a list.
-- KEYS: the account. ARGV: login | buy | sell, the item or the credits of a new account.
-- The reply is one line, "credits items".
local prices = {potion = 25, torch = 40, dagger = 60, shield = 120, bow = 150, sword = 200,
                armor = 350, horse = 500}
local account, method, item = KEYS[1], ARGV[1], ARGV[2]
local row = redis.call('HMGET', account, 'credits', 'items')
local credits, text = tonumber(row[1]), row[2]

if method == 'login' then
  if not credits then
    credits, text = tonumber(item), ''
    redis.call('HSET', account, 'credits', credits, 'items', text)
    redis.call('RPUSH', 'ledger', account .. ' opening 0 ' .. credits)
  end
  return redis.status_reply(credits .. ' ' .. text)
end

if not credits then
  return redis.error_reply('NOTLOGGEDIN not_logged_in')
end
local price = prices[item]
if not price then
  return redis.error_reply('UNKNOWN unknown_item')
end
local items, at = {}, nil
for one in string.gmatch(text, '[^,]+') do
  items[#items + 1] = one
  if one == item then
    at = #items
  end
end
if method == 'buy' then
  if at then
    return redis.error_reply('OWNED item_already_owned')
  elseif credits < price then
    return redis.error_reply('CREDITS not_enough_credits')
  end
  credits = credits - price
  items[#items + 1] = item
else
  if not at then
    return redis.error_reply('NOTOWNED item_not_owned')
  end
  credits = credits + price
  table.remove(items, at)
end
text = table.concat(items, ',')
redis.call('HSET', account, 'credits', credits, 'items', text)
redis.call('RPUSH', 'ledger', account .. ' ' .. method .. ' ' .. item .. ' ' .. price .. ' ' .. credits)
return redis.status_reply(credits .. ' ' .. text)
