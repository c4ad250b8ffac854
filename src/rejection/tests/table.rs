//! The `WWW-Authenticate` headers of a 401, and whether they say that the token was rejected.

/// Each entry is `rejected` or `good`, the server, and the headers of its response.
pub(super) const SERVERS: &str = r##"
rejected Microsoft Graph
    Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", client_id="00000003-0000-0000-c000-000000000000"
rejected Microsoft Graph, continuous access evaluation
    Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7InZhbHVlIjoiMTYwNDEwNjY1MSJ9fX0="
rejected Azure Resource Manager
    Bearer authorization_uri="https://login.windows.net/", error="invalid_token", error_description="The access token is invalid."
rejected Azure Storage, without a comma
    Bearer authorization_uri=https://login.microsoftonline.com/common/oauth2/authorize resource_id=https://storage.azure.com
rejected Azure Key Vault
    Bearer authorization="https://login.microsoftonline.com/common", resource="https://vault.azure.net"
rejected SharePoint
    NTLM
    Bearer realm="t",client_id="00000003-0000-0ff1-ce00-000000000000",trusted_issuers="00000001-0000-0000-c000-000000000000@*,https://sts.windows.net/*/"
rejected Exchange
    Bearer client_id="00000002-0000-0ff1-ce00-000000000000", token_types="app_asserted_user_v1", error="invalid_token",Basic Realm="",Basic Realm=""
rejected Azure DevOps
    Bearer authorization_uri=https://login.windows.net/common
    Basic realm="https://tfsprod.example/"
    TFS-Federated
rejected ASP.NET Core
    Bearer error="invalid_token", error_description="The token expired at '10/27/2025 17:31:00'"
rejected ASP.NET Core with two issuers
    Bearer error="invalid_token", error_description="The signature key was not found"
    Bearer error="invalid_token", error_description="The audience 'a' is invalid"
rejected IdentityServer
    Bearer error="invalid_token",error_description="The token expired"
rejected Google
    Bearer realm="https://accounts.google.com/", error="invalid_token"
rejected Google Cloud Run, without a comma
    Bearer error="invalid_token" error_description="The access token could not be verified"
rejected Google's older APIs
    Bearer realm="https://www.google.com/accounts/AuthSubRequest", error=invalid_token
rejected GitHub, Kubernetes, Keycloak's admin API, AWS API Gateway with Cognito
good GitHub over git, which wants a password
    Basic realm="GitHub"
rejected GitHub's container registry
    Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"
good GitHub's MCP server, of a request without a token
    Bearer error="invalid_request", error_description="No access token was provided in this request", resource_metadata="https://api.githubcopilot.com/.well-known/oauth-protected-resource/mcp/"
rejected GitLab
    Bearer realm="Protected by OAuth 2.0", error="invalid_token", error_description="Token was revoked. You have to re-authorize from the user."
rejected Docker's registry
    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/ubuntu:pull"
good Docker's registry, of a token for another repository
    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/ubuntu:pull,push",error="insufficient_scope"
rejected Azure's container registry
    Bearer realm="https://x.azurecr.io/oauth2/token",service="x.azurecr.io",scope="repository:a:pull",error="invalid_token"
rejected Harbor
    Bearer realm="https://harbor.example/service/token",service="harbor-registry"
    Basic realm="harbor"
good Kubernetes of old, with passwords switched on
    Basic realm="kubernetes-master"
rejected Keycloak
    Bearer realm="master", error="invalid_token", error_description="Token verification failed"
rejected Auth0
    Bearer realm="api", error="invalid_token", error_description="\"exp\" claim timestamp check failed"
rejected Okta
    Bearer authorization_uri="http://org.okta.com/oauth2/v1/authorize", realm="http://org.okta.com", scope="okta.users.read", error="invalid_token", error_description="The access token is invalid", resource="/api/v1/users"
rejected Spring
    Bearer error="invalid_token", error_description="Jwt expired at 2025-10-01T10:00:00Z", error_uri="https://tools.ietf.org/html/rfc6750#section-3.1"
good Spring, of a step-up
    Bearer error="insufficient_user_authentication", error_description="A fresh login is required", max_age="5"
rejected AWS HTTP APIs, without a comma
    Bearer scope="" error="invalid_token" error_description="the token has expired"
rejected AWS Cognito, without a scheme
    error="invalid_token", error_description="Access token is expired, disabled, or deleted, or the user has globally signed out."
rejected nginx
    Bearer realm="closed site",error="invalid_token"
rejected Envoy
    Bearer realm="http://api.example.com/v1", error="invalid_token"
rejected Kong, without a comma
    Bearer realm="service" error="invalid_token" error_description="The access token is invalid or has expired"
rejected Elasticsearch
    Basic realm="security" charset="UTF-8"
    Bearer realm="security"
    ApiKey
rejected Doorkeeper
    Bearer realm="Doorkeeper", error="invalid_token", error_description="The access token was revoked"
rejected Spotify
    Bearer realm="spotify", error="invalid_token", error_description="The access token expired"
rejected MCP servers (RFC 9728)
    Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource", scope="files:read"
good Jira, a name of its own for what is sent as Bearer: `RejectionPolicy::when` has to know
    OAuth realm="https%3A%2F%2Fjira.example.com"
good Django REST framework, the same
    Token
good Facebook, the same
    OAuth "Facebook Platform" "invalid_token" "Error validating access token"
good Artifactory, the same
    Basic realm="Artifactory Realm"
"##;

const REJECTED: bool = true;
/// The token is good, or the server asked for other credentials.
const GOOD: bool = false;

pub(super) const GRAMMAR: &[(&[&str], bool)] = &[
    // No challenge, or an unreadable one.
    (&[], REJECTED),
    (&[""], REJECTED),
    (&[" , ,, "], REJECTED),
    (&["\"Bearer\""], REJECTED),
    (&["="], REJECTED),
    (&["?"], REJECTED),
    (&["", "", ""], REJECTED),
    // The scheme alone, in any case and spacing.
    (&["Bearer"], REJECTED),
    (&["bearer"], REJECTED),
    (&["BEARER"], REJECTED),
    (&[" \t Bearer \t "], REJECTED),
    (&["Bearer,"], REJECTED),
    (&[",Bearer"], REJECTED),
    (&["Bearer realm=\"x\""], REJECTED),
    (&["Bearer realm="], REJECTED),
    (&["Bearer scope=\"read\""], REJECTED),
    (&["Bearer YWJj=="], REJECTED),
    // Names that only begin with it.
    (&["Bearerer"], GOOD),
    (&["BearerToken realm=\"x\""], GOOD),
    (&["X-Bearer"], GOOD),
    // RFC 6750 section 3.1.
    (&["Bearer error=\"invalid_token\""], REJECTED),
    (&["Bearer error=\"insufficient_scope\""], GOOD),
    (&["Bearer error=\"invalid_request\""], GOOD),
    (&["Bearer realm=\"example\", error=\"invalid_token\", error_description=\"The access token expired\""], REJECTED),
    (&["Bearer realm=\"example\", error=\"insufficient_scope\", scope=\"read write\""], GOOD),
    // RFC 9470 section 3.
    (&["Bearer error=\"insufficient_user_authentication\", acr_values=\"myACR\""], GOOD),
    (&["Bearer error=\"insufficient_user_authentication\", error_description=\"old\", max_age=5"], GOOD),
    // Codes that a server defines itself.
    (&["Bearer error=\"token_expired\""], REJECTED),
    (&["Bearer error=\"expired_token\""], REJECTED),
    (&["Bearer error=\"unauthorized\""], REJECTED),
    (&["Bearer error=\"insufficient\""], REJECTED),
    (&["Bearer error=\"\""], REJECTED),
    (&["Bearer error="], REJECTED),
    // Names in any case, and values in exactly one (RFC 6749 section 5.2).
    (&["bEARER ERROR=\"insufficient_scope\""], GOOD),
    (&["Bearer Error=insufficient_scope"], GOOD),
    (&["Bearer error=\"INSUFFICIENT_SCOPE\""], REJECTED),
    (&["Bearer error=\"Invalid_Token\""], REJECTED),
    // White space, commas and quotes, in valid and invalid places.
    (&["Bearer error = \"insufficient_scope\""], GOOD),
    (&["Bearer error\t=\tinsufficient_scope"], GOOD),
    (&["Bearer   realm=\"x\"   ,   error=\"insufficient_scope\""], GOOD),
    (&["Bearer ,, ,realm=\"x\",, error=\"insufficient_scope\" ,"], GOOD),
    (&["Bearer realm=\"x\" error=\"insufficient_scope\""], GOOD),
    (&["Bearer realm=\"x\"error=\"insufficient_scope\""], GOOD),
    (&["Bearer, error=\"insufficient_scope\""], GOOD),
    (&["Bearer, error=\"invalid_token\""], REJECTED),
    (&["Bearer error=\"insufficient_scope"], GOOD),
    (&["Bearer realm=\"never closed, error=\"insufficient_scope\""], REJECTED),
    (&["Bearer realm=\"x\"; error=\"insufficient_scope\""], REJECTED),
    (&["Bearer error='insufficient_scope'"], REJECTED),
    (&["Bearer: error=\"insufficient_scope\""], REJECTED),
    (&["error=\"insufficient_scope\""], REJECTED),
    // A quoted text contains no parameters.
    (&["Bearer realm=\"error=insufficient_scope\""], REJECTED),
    (&["Bearer realm=\"a, error=\\\"insufficient_scope\\\", b\""], REJECTED),
    (&["Bearer realm=\"ends in \\\\\", error=\"insufficient_scope\""], GOOD),
    (&["Bearer error_description=\"error=\\\"insufficient_scope\\\"\", error=\"invalid_token\""], REJECTED),
    (&["Bearer realm=\"Basic\", error=\"insuff\\icient_scope\""], GOOD),
    (&["Basic realm=\"say Bearer, please\""], GOOD),
    (&["Basic realm=\"x, Bearer error=\\\"invalid_token\\\"\""], GOOD),
    // A parameter twice: the first counts.
    (&["Bearer error=\"invalid_token\", error=\"insufficient_scope\""], REJECTED),
    (&["Bearer error=\"insufficient_scope\", error=\"invalid_token\""], GOOD),
    // Other schemes only.
    (&["Basic realm=\"x\""], GOOD),
    (&["Basic"], GOOD),
    (&["Negotiate"], GOOD),
    (&["Negotiate YIIJvwYGKwYBBQUCoIIJszCCCa+gJDAi=="], GOOD),
    (&["Negotiate, NTLM"], GOOD),
    (&["DPoP algs=\"ES256 PS256\""], GOOD),
    (&["DPoP error=\"use_dpop_nonce\", error_description=\"Resource server requires nonce in DPoP proof\""], GOOD),
    (&["DPoP error=\"invalid_token\", algs=\"ES256\""], GOOD),
    (&["Digest realm=\"x\", qop=\"auth, auth-int\", nonce=\"dcd98b\", algorithm=MD5"], GOOD),
    (&["Basic realm=\"x\", \"broken"], GOOD),
    // Bearer with other schemes, in one header and in several.
    (&["Basic realm=\"x\", Bearer"], REJECTED),
    (&["Bearer, Basic realm=\"x\""], REJECTED),
    (&["Negotiate abc=, Bearer error=\"insufficient_scope\""], GOOD),
    (&["DPoP algs=\"ES256\", Bearer error=\"invalid_token\""], REJECTED),
    (&["Bearer error=\"insufficient_scope\", DPoP error=\"invalid_token\""], GOOD),
    (&["Bearer realm=\"x\", DPoP error=\"insufficient_scope\""], REJECTED),
    (&["Basic realm=\"x\"", "Bearer realm=\"x\""], REJECTED),
    (&["Bearer realm=\"x\"", "Negotiate", "NTLM"], REJECTED),
    (&["Basic realm=\"x\"", "Bearer error=\"insufficient_scope\""], GOOD),
    (&["\"broken", "Bearer error=\"insufficient_scope\""], GOOD),
    (&["\"broken", "Basic realm=\"x\""], GOOD),
    (&["Bearer error=\"invalid_token\"", "Bearer error=\"insufficient_scope\""], GOOD),
    (&["Bearer", "Bearer error=\"invalid_token\""], REJECTED),
];
