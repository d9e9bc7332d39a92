package tokenbroker

// Reason is why there is no token, for programs: the name of a value of the contract's ErrorReason. A newer broker may have more
// of them. Must never lose or rename one: callers' programs branch on them.
type Reason string

// The reasons of the contract; its proto and docs/errors.md say more.
const (
	InvalidRequest           Reason = "INVALID_REQUEST"            // the request is malformed: FieldViolations names the fields
	CallerUnauthenticated    Reason = "CALLER_UNAUTHENTICATED"     // who is calling is unknown
	IdentityUnavailable      Reason = "IDENTITY_UNAVAILABLE"       // who is calling can't be found out now
	CallerNotAllowed         Reason = "CALLER_NOT_ALLOWED"         // the caller may not have this user's tokens
	UserNotConfigured        Reason = "USER_NOT_CONFIGURED"        // the broker knows no such user
	CredentialsRejected      Reason = "CREDENTIALS_REJECTED"       // the vault refuses the password or the account
	SecondFactorRequired     Reason = "SECOND_FACTOR_REQUIRED"     // the vault wants a second factor
	VaultRequestRejected     Reason = "VAULT_REQUEST_REJECTED"     // the vault refuses the broker's request
	VaultThrottled           Reason = "VAULT_THROTTLED"            // the vault asks to wait
	VaultUnavailable         Reason = "VAULT_UNAVAILABLE"          // the vault is out of reach, slow or failing
	VaultResponseInvalid     Reason = "VAULT_RESPONSE_INVALID"     // the vault's answer makes no sense
	SignInTooSoon            Reason = "SIGN_IN_TOO_SOON"           // the floor between two sign-ins ends after the deadline
	MinRemainingUnattainable Reason = "MIN_REMAINING_UNATTAINABLE" // no token lives as long as asked
	DeadlineExceeded         Reason = "DEADLINE_EXCEEDED"          // the deadline passed; the sign-in goes on
	BrokerOverloaded         Reason = "BROKER_OVERLOADED"          // too many calls wait
	BrokerShuttingDown       Reason = "BROKER_SHUTTING_DOWN"       // this broker's process ends
	Internal                 Reason = "INTERNAL"                   // the broker is at fault
)

// reasonDomain is that of every ErrorInfo of the broker: others' are not its word.
const reasonDomain = "token-broker"

// isTemporary says whether the same call may fare better later without anybody's help, and whether the reason is known at all.
func (r Reason) isTemporary() (temporary, known bool) {
	switch r {
	case IdentityUnavailable, VaultThrottled, VaultUnavailable, VaultResponseInvalid, SignInTooSoon, DeadlineExceeded,
		BrokerOverloaded, BrokerShuttingDown:
		return true, true
	case InvalidRequest, CallerUnauthenticated, CallerNotAllowed, UserNotConfigured, CredentialsRejected, SecondFactorRequired,
		VaultRequestRejected, MinRemainingUnattainable, Internal:
		return false, true
	default:
		return false, false
	}
}
