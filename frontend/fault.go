package frontend

import (
	"net/http"

	"kiln"
)

// fault is how an error is answered.
type fault struct {
	status int
	// code is AWS's name of the error.
	code string
}

// faultOf is the table from a Kind to what a caller gets. There is no other.
func faultOf(k kiln.Kind) fault {
	switch k {
	case kiln.Validation:
		return fault{http.StatusBadRequest, "ValidationException"}
	case kiln.Serialization:
		return fault{http.StatusBadRequest, "SerializationException"}
	case kiln.InvalidParameterValue:
		return fault{http.StatusBadRequest, "InvalidParameterValueException"}
	case kiln.InvalidRequestContent:
		return fault{http.StatusBadRequest, "InvalidRequestContentException"}
	case kiln.ResourceNotFound:
		return fault{http.StatusNotFound, "ResourceNotFoundException"}
	case kiln.ProvisionedNotFound:
		return fault{http.StatusNotFound, "ProvisionedConcurrencyConfigNotFoundException"}
	case kiln.ResourceConflict:
		return fault{http.StatusConflict, "ResourceConflictException"}
	case kiln.PreconditionFailed:
		return fault{http.StatusPreconditionFailed, "PreconditionFailedException"}
	case kiln.RequestTooLarge:
		return fault{http.StatusRequestEntityTooLarge, "RequestTooLargeException"}
	case kiln.RequestEntityTooLarge:
		return fault{http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException"}
	case kiln.UnsupportedMediaType:
		return fault{http.StatusUnsupportedMediaType, "UnsupportedMediaTypeException"}
	case kiln.TooManyRequests:
		return fault{http.StatusTooManyRequests, "TooManyRequestsException"}
	case kiln.CodeStorageExceeded:
		return fault{http.StatusBadRequest, "CodeStorageExceededException"}
	case kiln.PolicyLengthExceeded:
		return fault{http.StatusBadRequest, "PolicyLengthExceededException"}
	case kiln.AccessDenied:
		return fault{http.StatusForbidden, "AccessDeniedException"}
	case kiln.RecursiveInvocation:
		return fault{http.StatusBadRequest, "RecursiveInvocationException"}
	case kiln.CodeVerificationFailed:
		return fault{http.StatusBadRequest, "CodeVerificationFailedException"}
	case kiln.CodeSigningConfigNotFound:
		return fault{http.StatusNotFound, "CodeSigningConfigNotFoundException"}
	case kiln.InvalidRuntime:
		return fault{http.StatusBadGateway, "InvalidRuntimeException"}
	case kiln.InvalidZipFile:
		return fault{http.StatusBadGateway, "InvalidZipFileException"}
	case kiln.NotImplemented:
		return fault{http.StatusNotImplemented, "ServiceException"}
	case kiln.Unavailable:
		return fault{http.StatusServiceUnavailable, "ServiceUnavailableException"}
	default:
		return fault{http.StatusInternalServerError, "ServiceException"}
	}
}
