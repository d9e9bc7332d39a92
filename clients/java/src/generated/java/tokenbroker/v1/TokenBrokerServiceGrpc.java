package tokenbroker.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Hands out the vault's access token of one user.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class TokenBrokerServiceGrpc {

  private TokenBrokerServiceGrpc() {}

  public static final String SERVICE_NAME = "tokenbroker.v1.TokenBrokerService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<tokenbroker.v1.GetTokenRequest,
      tokenbroker.v1.GetTokenResponse> getGetTokenMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetToken",
      requestType = tokenbroker.v1.GetTokenRequest.class,
      responseType = tokenbroker.v1.GetTokenResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<tokenbroker.v1.GetTokenRequest,
      tokenbroker.v1.GetTokenResponse> getGetTokenMethod() {
    io.grpc.MethodDescriptor<tokenbroker.v1.GetTokenRequest, tokenbroker.v1.GetTokenResponse> getGetTokenMethod;
    if ((getGetTokenMethod = TokenBrokerServiceGrpc.getGetTokenMethod) == null) {
      synchronized (TokenBrokerServiceGrpc.class) {
        if ((getGetTokenMethod = TokenBrokerServiceGrpc.getGetTokenMethod) == null) {
          TokenBrokerServiceGrpc.getGetTokenMethod = getGetTokenMethod =
              io.grpc.MethodDescriptor.<tokenbroker.v1.GetTokenRequest, tokenbroker.v1.GetTokenResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetToken"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  tokenbroker.v1.GetTokenRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  tokenbroker.v1.GetTokenResponse.getDefaultInstance()))
              .setSchemaDescriptor(new TokenBrokerServiceMethodDescriptorSupplier("GetToken"))
              .build();
        }
      }
    }
    return getGetTokenMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static TokenBrokerServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TokenBrokerServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TokenBrokerServiceStub>() {
        @java.lang.Override
        public TokenBrokerServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TokenBrokerServiceStub(channel, callOptions);
        }
      };
    return TokenBrokerServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static TokenBrokerServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TokenBrokerServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TokenBrokerServiceBlockingStub>() {
        @java.lang.Override
        public TokenBrokerServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TokenBrokerServiceBlockingStub(channel, callOptions);
        }
      };
    return TokenBrokerServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static TokenBrokerServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TokenBrokerServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TokenBrokerServiceFutureStub>() {
        @java.lang.Override
        public TokenBrokerServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TokenBrokerServiceFutureStub(channel, callOptions);
        }
      };
    return TokenBrokerServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Hands out the vault's access token of one user.
   * </pre>
   */
  public static abstract class TokenBrokerServiceImplBase implements io.grpc.BindableService {

    /**
     * <pre>
     * Returns a token of the user that is valid now, signing in upstream only when no such token is at hand.
     * Every error carries a google.rpc.ErrorInfo with the domain "token-broker", the name of an ErrorReason, and the metadata
     * that is named there. Where waiting helps, google.rpc.RetryInfo says how long, and the trailer grpc-retry-pushback-ms says the
     * same to gRPC's own retry policy: milliseconds, or -1 where the wait is over 5 s, which means that the library should not
     * repeat the call.
     * Asking twice does no harm. Ask before each use of a token: what is cached is answered in microseconds, however busy the
     * broker is. Or keep the token, and ask again after its renew_in. Set a deadline of 15 s, which covers a sign-in; without one
     * the broker takes 30 s, or what its operator has set.
     * </pre>
     */
    public void getToken(tokenbroker.v1.GetTokenRequest request,
        io.grpc.stub.StreamObserver<tokenbroker.v1.GetTokenResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetTokenMethod(), responseObserver);
    }

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return io.grpc.ServerServiceDefinition.builder(getServiceDescriptor())
          .addMethod(
            getGetTokenMethod(),
            io.grpc.stub.ServerCalls.asyncUnaryCall(
              new MethodHandlers<
                tokenbroker.v1.GetTokenRequest,
                tokenbroker.v1.GetTokenResponse>(
                  this, METHODID_GET_TOKEN)))
          .build();
    }
  }

  /**
   * <pre>
   * Hands out the vault's access token of one user.
   * </pre>
   */
  public static final class TokenBrokerServiceStub extends io.grpc.stub.AbstractAsyncStub<TokenBrokerServiceStub> {
    private TokenBrokerServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TokenBrokerServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TokenBrokerServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns a token of the user that is valid now, signing in upstream only when no such token is at hand.
     * Every error carries a google.rpc.ErrorInfo with the domain "token-broker", the name of an ErrorReason, and the metadata
     * that is named there. Where waiting helps, google.rpc.RetryInfo says how long, and the trailer grpc-retry-pushback-ms says the
     * same to gRPC's own retry policy: milliseconds, or -1 where the wait is over 5 s, which means that the library should not
     * repeat the call.
     * Asking twice does no harm. Ask before each use of a token: what is cached is answered in microseconds, however busy the
     * broker is. Or keep the token, and ask again after its renew_in. Set a deadline of 15 s, which covers a sign-in; without one
     * the broker takes 30 s, or what its operator has set.
     * </pre>
     */
    public void getToken(tokenbroker.v1.GetTokenRequest request,
        io.grpc.stub.StreamObserver<tokenbroker.v1.GetTokenResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetTokenMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * <pre>
   * Hands out the vault's access token of one user.
   * </pre>
   */
  public static final class TokenBrokerServiceBlockingStub extends io.grpc.stub.AbstractBlockingStub<TokenBrokerServiceBlockingStub> {
    private TokenBrokerServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TokenBrokerServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TokenBrokerServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns a token of the user that is valid now, signing in upstream only when no such token is at hand.
     * Every error carries a google.rpc.ErrorInfo with the domain "token-broker", the name of an ErrorReason, and the metadata
     * that is named there. Where waiting helps, google.rpc.RetryInfo says how long, and the trailer grpc-retry-pushback-ms says the
     * same to gRPC's own retry policy: milliseconds, or -1 where the wait is over 5 s, which means that the library should not
     * repeat the call.
     * Asking twice does no harm. Ask before each use of a token: what is cached is answered in microseconds, however busy the
     * broker is. Or keep the token, and ask again after its renew_in. Set a deadline of 15 s, which covers a sign-in; without one
     * the broker takes 30 s, or what its operator has set.
     * </pre>
     */
    public tokenbroker.v1.GetTokenResponse getToken(tokenbroker.v1.GetTokenRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetTokenMethod(), getCallOptions(), request);
    }
  }

  /**
   * <pre>
   * Hands out the vault's access token of one user.
   * </pre>
   */
  public static final class TokenBrokerServiceFutureStub extends io.grpc.stub.AbstractFutureStub<TokenBrokerServiceFutureStub> {
    private TokenBrokerServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TokenBrokerServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TokenBrokerServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns a token of the user that is valid now, signing in upstream only when no such token is at hand.
     * Every error carries a google.rpc.ErrorInfo with the domain "token-broker", the name of an ErrorReason, and the metadata
     * that is named there. Where waiting helps, google.rpc.RetryInfo says how long, and the trailer grpc-retry-pushback-ms says the
     * same to gRPC's own retry policy: milliseconds, or -1 where the wait is over 5 s, which means that the library should not
     * repeat the call.
     * Asking twice does no harm. Ask before each use of a token: what is cached is answered in microseconds, however busy the
     * broker is. Or keep the token, and ask again after its renew_in. Set a deadline of 15 s, which covers a sign-in; without one
     * the broker takes 30 s, or what its operator has set.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<tokenbroker.v1.GetTokenResponse> getToken(
        tokenbroker.v1.GetTokenRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetTokenMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_GET_TOKEN = 0;

  private static final class MethodHandlers<Req, Resp> implements
      io.grpc.stub.ServerCalls.UnaryMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ServerStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ClientStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.BidiStreamingMethod<Req, Resp> {
    private final TokenBrokerServiceImplBase serviceImpl;
    private final int methodId;

    MethodHandlers(TokenBrokerServiceImplBase serviceImpl, int methodId) {
      this.serviceImpl = serviceImpl;
      this.methodId = methodId;
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public void invoke(Req request, io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_GET_TOKEN:
          serviceImpl.getToken((tokenbroker.v1.GetTokenRequest) request,
              (io.grpc.stub.StreamObserver<tokenbroker.v1.GetTokenResponse>) responseObserver);
          break;
        default:
          throw new AssertionError();
      }
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public io.grpc.stub.StreamObserver<Req> invoke(
        io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        default:
          throw new AssertionError();
      }
    }
  }

  private static abstract class TokenBrokerServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    TokenBrokerServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return tokenbroker.v1.TokenBroker.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("TokenBrokerService");
    }
  }

  private static final class TokenBrokerServiceFileDescriptorSupplier
      extends TokenBrokerServiceBaseDescriptorSupplier {
    TokenBrokerServiceFileDescriptorSupplier() {}
  }

  private static final class TokenBrokerServiceMethodDescriptorSupplier
      extends TokenBrokerServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final String methodName;

    TokenBrokerServiceMethodDescriptorSupplier(String methodName) {
      this.methodName = methodName;
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.MethodDescriptor getMethodDescriptor() {
      return getServiceDescriptor().findMethodByName(methodName);
    }
  }

  private static volatile io.grpc.ServiceDescriptor serviceDescriptor;

  public static io.grpc.ServiceDescriptor getServiceDescriptor() {
    io.grpc.ServiceDescriptor result = serviceDescriptor;
    if (result == null) {
      synchronized (TokenBrokerServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new TokenBrokerServiceFileDescriptorSupplier())
              .addMethod(getGetTokenMethod())
              .build();
        }
      }
    }
    return result;
  }
}
