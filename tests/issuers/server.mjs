// oidc-provider on a free port of loopback, with its state in memory. It prints {"port":...} and ends when stdin ends.
//
// The routes under /test are for tests: the counts, an API that accepts the provider's access tokens, a simulated
// person, and the clients' keys.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

// Hides the provider's advice for production from the tests' output.
console.info = console.warn = () => {};

const { Provider, errors } = await import('oidc-provider');
const { SignJWT, exportJWK } = await import('jose');

const RESOURCE = 'https://api.example.com/';
const SCOPES = ['offline_access', 'openid', 'read', 'write'];
const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';
// By RFC 6749 appendix A.2 a client's secret is printable ASCII, and the provider checks that. A user's password (A.15)
// may contain any character.
const ODD_SECRET = 's cr:t&=+%41/"';
const LONG_SECRET = 'a secret of thirty-two bytes or more, as HS256 needs it';
const PASSWORDS = new Map([['ann', 'päss wörd&=+'], ['bob b+%', 'other']]);
// Lifetimes in seconds. The provider counts whole seconds, so a token ends up to a second before `expires_in` has
// passed.
const LIFE = 3600;
const SHORT_LIFE = 6;
const BRIEF_LIFE = 3;

// How long a token call is delayed before the provider gets it, so that two calls at once overlap.
const HOLD = 50;

const counts = {
  token_calls: 0, token_calls_at_once: 0, granted: 0, denied: 0, reuses: 0, revoked_grants: 0, accepted: 0, rejected: 0,
  metadata_reads: 0,
  // Client assertions, by audience.
  for_issuer: 0, for_endpoint: 0,
};

// === clients ===

const keys = { ES256: pair('ec', { namedCurve: 'P-256' }), RS256: pair('rsa', { modulusLength: 2048 }) };

function pair(kind, options) {
  const { publicKey, privateKey } = generateKeyPairSync(kind, options);
  return { publicKey, privateKey };
}

async function client(client_id, token_endpoint_auth_method, more = {}) {
  return {
    client_id,
    token_endpoint_auth_method,
    application_type: 'native',
    redirect_uris: ['http://127.0.0.1/callback'],
    response_types: ['code'],
    grant_types: [
      'authorization_code', 'refresh_token', 'password', DEVICE_CODE,
      ...(token_endpoint_auth_method === 'none' ? [] : ['client_credentials']),
    ],
    ...more,
  };
}

async function signing(client_id, alg) {
  const jwk = { ...await exportJWK(keys[alg].publicKey), alg, use: 'sig', kid: alg };
  return client(client_id, 'private_key_jwt', { token_endpoint_auth_signing_alg: alg, jwks: { keys: [jwk] } });
}

const clients = await Promise.all([
  client('we ird:id+%', 'client_secret_basic', { client_secret: ODD_SECRET }),
  client('plain', 'client_secret_basic', { client_secret: 'secret' }),
  client('post', 'client_secret_post', { client_secret: ODD_SECRET }),
  client('public', 'none'),
  client('short', 'client_secret_basic', { client_secret: 'secret' }),
  client('short-public', 'none'),
  client('brief', 'client_secret_basic', { client_secret: 'secret' }),
  client('brief-public', 'none'),
  client('secret-jwt', 'client_secret_jwt', { client_secret: LONG_SECRET, token_endpoint_auth_signing_alg: 'HS256' }),
  signing('es256', 'ES256'),
  signing('rs256', 'RS256'),
  signing('brief-es256', 'ES256'),
  signing('brief-rs256', 'RS256'),
]);

// === the provider ===

const LIVES = { short: SHORT_LIFE, brief: BRIEF_LIFE };
const life = (_, __, { clientId }) => LIVES[clientId.split('-')[0]] ?? LIFE;
const account = (id) => ({ accountId: id, claims: () => ({ sub: id }) });

function resourceServer(_, resource) {
  if (resource !== RESOURCE) throw new errors.InvalidTarget();
  return { scope: 'read write', accessTokenFormat: 'opaque' };
}

const configuration = {
  clients,
  scopes: SCOPES,
  rotateRefreshToken: true,
  // By default the provider accepts tokens for 15 s after their end.
  clockTolerance: 0,
  cookies: { keys: [randomUUID()] },
  interactions: { url: (_, { uid }) => `/test/interaction/${uid}` },
  findAccount: (_, id) => account(id),
  assertJwtClientAuthClaimsAndHeader: (_, { aud }) => {
    counts[aud === provider.issuer ? 'for_issuer' : 'for_endpoint'] += 1;
  },
  ttl: {
    AccessToken: life, ClientCredentials: life, RefreshToken: 24 * LIFE, Grant: 24 * LIFE, IdToken: LIFE,
    Session: LIFE, Interaction: LIFE, DeviceCode: 60, AuthorizationCode: 60,
  },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true, getResourceServerInfo: resourceServer, defaultResource: (_, __, one) => one ?? [],
    },
  },
};

// A user's grant to a client, for known scopes.
async function consent(accountId, clientId, scope) {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  grant.addResourceScope(RESOURCE, scope);
  return grant.save();
}

// The password grant of RFC 6749 section 4.3, which the provider does not implement.
async function passwordGrant(ctx) {
  const { client, params: { username, password, scope = '' } } = ctx.oidc;
  if (!username || !password) throw new errors.InvalidRequest('username and password are required');
  if (!scope.split(' ').every((one) => !one || SCOPES.includes(one))) throw new errors.InvalidScope('unknown', scope);
  if (PASSWORDS.get(username) !== password) throw new errors.InvalidGrant('wrong username or password');
  const grantId = await consent(username, client.clientId, scope);
  const session = { accountId: username, client, grantId, gty: 'password', scope };
  const token = new provider.AccessToken(session);
  const body = { access_token: await token.save(), expires_in: token.expiration, token_type: token.tokenType, scope };
  if (scope.split(' ').includes('offline_access')) {
    body.refresh_token = await new provider.RefreshToken({ ...session, rotations: 0 }).save();
  }
  ctx.body = body;
}

// === routes of the tests ===

const routes = {
  // The counts so far.
  'GET /test/counts': () => counts,

  // 200 for a live access token of the provider, else 401.
  'GET /test/api': async ({ request, response }) => {
    const [scheme, text] = (request.headers.authorization ?? '').split(' ');
    const token = scheme === 'Bearer' && text
      ? await provider.AccessToken.find(text) ?? await provider.ClientCredentials.find(text)
      : undefined;
    counts[token ? 'accepted' : 'rejected'] += 1;
    if (!token) {
      response.statusCode = 401;
      response.setHeader('www-authenticate', text ? 'Bearer error="invalid_token"' : 'Bearer');
    }
    return { accepted: Boolean(token), scope: token?.scope, aud: token?.aud };
  },

  // A person that approves a device, or denies it (`deny=1`).
  'POST /test/device': async ({ query }) => {
    const code = await provider.DeviceCode.findByUserCode(query.get('user_code').replace(/[^A-Z]/g, ''));
    if (query.has('deny')) {
      Object.assign(code, { error: 'access_denied', errorDescription: 'the user said no' });
    } else {
      const { scope = '', resource } = code.params;
      const grantId = await consent('ann', code.clientId, scope);
      Object.assign(code, { accountId: 'ann', grantId, scope, resource, expiresWithSession: false });
    }
    await code.save();
    return {};
  },

  // A person that logs in and consents at once whenever the provider asks, or that denies (`login_hint=nobody`).
  'GET /test/interaction': async ({ request, response }) => {
    const { params } = await provider.interactionDetails(request, response);
    const grantId = await consent('ann', params.client_id, params.scope ?? '');
    const result = params.login_hint === 'nobody'
      ? { error: 'access_denied', error_description: 'the user said no' }
      : { login: { accountId: 'ann' }, consent: { grantId } };
    await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  },

  // The private key of a client, as PKCS #8 in PEM.
  'GET /test/key': ({ query }) => ({
    pem: keys[query.get('alg')].privateKey.export({ type: 'pkcs8', format: 'pem' }),
  }),

  // A client assertion (RFC 7523 section 2.2) from elsewhere.
  'GET /test/assertion': async ({ query }) => {
    const [id, alg] = [query.get('client_id'), query.get('alg')];
    const key = alg === 'HS256' ? new TextEncoder().encode(LONG_SECRET) : keys[alg].privateKey;
    const assertion = new SignJWT({ iss: id, sub: id, aud: provider.issuer, jti: randomUUID() })
      .setProtectedHeader({ alg }).setIssuedAt().setExpirationTime('1m');
    return { assertion: await assertion.sign(key) };
  },
};

async function testRoute(request, response) {
  const { pathname, searchParams: query } = new URL(request.url, provider.issuer);
  const route = routes[`${request.method} ${pathname.split('/').slice(0, 3).join('/')}`];
  if (!route) {
    response.statusCode = 404;
    return response.end();
  }
  const answer = await route({ request, response, query });
  if (answer !== undefined) response.setHeader('content-type', 'application/json').end(JSON.stringify(answer));
}

// === start ===

let tokenCalls = 0;

async function tokenCall(request, response) {
  counts.token_calls += 1;
  tokenCalls += 1;
  counts.token_calls_at_once = Math.max(counts.token_calls_at_once, tokenCalls);
  response.once('close', () => { tokenCalls -= 1; });
  await sleep(HOLD);
  return handle(request, response);
}

const server = createServer((request, response) => {
  if (request.url.startsWith('/.well-known/')) counts.metadata_reads += 1;
  const answered = request.url.startsWith('/test/') ? testRoute(request, response)
    : request.method === 'POST' && request.url.split('?')[0] === '/token' ? tokenCall(request, response)
      : handle(request, response);
  Promise.resolve(answered).catch((error) => {
    console.error(error);
    response.statusCode = 500;
    response.end();
  });
});
// An idle connection must not close while a request is in flight, or tests would depend on the machine's speed.
server.keepAliveTimeout = 0;
await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
const { port } = server.address();

const provider = new Provider(`http://127.0.0.1:${port}`, configuration);
provider.registerGrantType('password', passwordGrant, ['username', 'password', 'scope']);
provider.on('grant.success', () => { counts.granted += 1; });
provider.on('grant.error', (_, error) => {
  counts.denied += 1;
  if (error.error_detail === 'refresh token already used') counts.reuses += 1;
});
provider.on('grant.revoked', () => { counts.revoked_grants += 1; });
provider.on('server_error', (_, error) => { console.error(error); });
const handle = provider.callback();

process.stdin.resume().on('close', () => process.exit(0));
console.log(JSON.stringify({ port }));
