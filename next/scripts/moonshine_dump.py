import sys,numpy as np
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py import fbs
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import InferenceSession as IS
T={1:np.float32,2:np.uint8,3:np.int8,6:np.int32,7:np.int64,9:np.bool_,10:np.float16}
def read(f):
    b=open(f,'rb').read(); s=IS.InferenceSession.GetRootAsInferenceSession(bytearray(b),0); g=s.Model().Graph()
    return walk(g)
def tensor(t):
    a=np.frombuffer(t.RawDataAsNumpy().tobytes(),T[t.DataType()]) if t.RawDataLength() else np.zeros(0)
    return a.reshape([t.Dims(i) for i in range(t.DimsLength())]) if t.RawDataLength() else a
def walk(g):
    ini={}; nodes=[]
    for i in range(g.InitializersLength()):
        t=g.Initializers(i); ini[t.Name().decode()]=tensor(t)
    for i in range(g.NodesLength()):
        n=g.Nodes(i); sub=[]; att={}
        for j in range(n.AttributesLength()):
            a=n.Attributes(j)
            if a.G(): sub.append((a.Name().decode(),walk(a.G())))
            elif a.Type()==2: att[a.Name().decode()]=a.I()
            elif a.Type()==1: att[a.Name().decode()]=a.F()
            elif a.Type()==4 and a.T(): att[a.Name().decode()]=tensor(a.T())
        nodes.append((n.OpType().decode(),n.Name().decode(),[n.Inputs(k).decode() for k in range(n.InputsLength())],[n.Outputs(k).decode() for k in range(n.OutputsLength())],att,sub))
    return ini,nodes
if __name__=='__main__':
    def show(x,ind=''):
        ini,nodes=x
        for k,v in ini.items(): print(ind,'I',k,v.dtype,v.shape,v if v.size<4 else '')
        for n in nodes:
            print(ind,'N',n[0],n[1],n[2],n[3],{k:(v if not hasattr(v,'size') or v.size<3 else v.shape) for k,v in n[4].items()})
            for s in n[5]: print(ind,' SUB',s[0]); show(s[1],ind+'   ')
    show(read(sys.argv[1]))
